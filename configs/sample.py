"""Responses to prompts, sampled from a policy that is asked for attributes (or for none).

    hs2jax sample --config=configs/sample.py --config.model.name=runs/steerlm/model \\
        --config.data=conversations:FILE.jsonl --workdir=runs/samples

As in HelpSteer2 (section 4.5): 10 responses to each prompt, temperature 0.7, top-p 0.9, asked for
helpfulness, correctness and coherence 4, complexity and verbosity 2. With
--config.conditions="('',)" nothing is asked for. Responses that vLLM or SGLang sampled are fetched
with --config.server=http://HOST:PORT/v1, or read with --config.responses=responses:FILE.jsonl.
"""

from hs2jax import configs


def get_config():
    return configs.defaults("sample")
