"""How fast samples are, against transformers' generate, in one run on this machine.

    HS2JAX_TEST_DATA=... python tests/sampler_speed.py [--repeats=3] [--tokens=128]

Eight questions of MT-Bench, four samples of each, temperature 0.7, top-p 0.9. Each is timed several
times, in turn, since other work on the machine slows whatever runs beside it; the best time counts.
Rates are new tokens per second, those up to a sample's end.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import torch
import transformers

from hs2jax.language_model import LanguageModel

MODEL = "smollm2-135m-instruct"
PROMPTS, SAMPLES = 8, 4
SETTINGS = {"temperature": 0.7, "top_p": 0.9}


def questions(count: int) -> list[list[dict]]:
    path = Path(os.environ["HS2JAX_TEST_DATA"]) / "mt_bench" / "question.jsonl"
    rows = map(json.loads, path.read_text().splitlines()[:count])
    return [[{"role": "user", "content": row["turns"][0]}] for row in rows]


def ours(model: LanguageModel, prompts, tokens: int, seed: int) -> int:
    found = model.sample(prompts, SAMPLES, max_new_tokens=tokens, seed=seed, **SETTINGS)
    return sum(len(one.tokens) for of_prompt in found for one in of_prompt)


def theirs(model, tokenizer, prompts, tokens: int, seed: int) -> int:
    torch.manual_seed(seed)
    texts = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        how = {"do_sample": True, "top_k": 0, "pad_token_id": tokenizer.pad_token_id} | SETTINGS
        how |= {"num_return_sequences": SAMPLES, "max_new_tokens": tokens}
        found = model.generate(**batch, **how)
    new = found[:, batch["input_ids"].shape[1] :]
    # The end of turn is also what the rows are padded with.
    ends = (new == tokenizer.eos_token_id).int()
    return int((ends.cumsum(dim=1) - ends == 0).sum())


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--repeats", type=int, default=3)
    flags.add_argument("--tokens", type=int, default=128)
    flags = flags.parse_args()

    prompts = questions(PROMPTS)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        LanguageModel.load(MODEL).save(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for name in ("float32", "bfloat16"):
            model = LanguageModel.load(folder, dtype=jnp.dtype(name))
            runs["hs2jax", name] = functools.partial(ours, model, prompts, flags.tokens)
            other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=name).eval()
            runs["transformers", name] = functools.partial(
                theirs, other, tokenizer, prompts, flags.tokens
            )
        rates = {key: [] for key in runs}
        for repeat in range(flags.repeats + 1):
            for key, run in runs.items():
                start = time.perf_counter()
                count = run(repeat)
                if repeat:  # The first is with compilation.
                    rates[key].append(count / (time.perf_counter() - start))
    for (who, name), each in rates.items():
        print(f"{who} {name}: {max(each):.0f} new tokens per second", flush=True)


if __name__ == "__main__":
    main()
