"""Hold training with shared prompts against one conversation a row: time and gradients.

    pip install -e . && python experiments/speed/shared_prompts.py \\
        --file=DATA/hh_rlhf/helpful_test_1850.jsonl

SmolLM2-135M-Instruct, groups of 2, 4 and 10 responses to a prompt. Tokens are HH-RLHF's, cut to
prompts and responses of one length, so that neither layout has padding and neither a response that
answers its prompt: only time and gradients are of interest. "Shared" is a group in a row, its
prompt computed once; "unshared" is what others do, each conversation a causal row of its own.
Gradients are those of one batch, and their distance ||shared - unshared|| / ||unshared|| is over
all parameters; beside it is that of bfloat16's unshared gradients from float32's. Times are medians
of rounds taken in turn.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax import LanguageModel, RewardModel, configs, inference
from hs2jax.data import corpora, loader
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Pair
from hs2jax.data.packing import Example
from hs2jax.data.record import Record
from hs2jax.training import objectives, step

LAYOUTS = {"shared": "shared", "unshared": "padded"}
HEAD = "responses | tokens saved | time saved | seconds unshared | gradients apart | bfloat16 apart"


def main(arguments=None) -> list[dict]:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--file", required=True, help="HH-RLHF pairs, as JSON lines")
    flags.add_argument("--model", default="smollm2-135m-instruct")
    flags.add_argument("--responses", type=int, nargs="+", default=[2, 4, 10])
    flags.add_argument("--prompt_tokens", type=int, default=256)
    flags.add_argument("--response_tokens", type=int, default=128)
    flags.add_argument("--groups", type=int, default=2, help="of a batch, one at a time")
    flags.add_argument("--rounds", type=int, default=3, help="that count, after one that compiles")
    flags.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    flags.add_argument("--kinds", nargs="+", default=[*KINDS])
    flags = flags.parse_args(arguments)
    print(f"| model | dtype | {HEAD} |\n|{'---|' * 8}")
    rows = []
    for kind in flags.kinds:
        model, params, objective, forward = KINDS[kind](flags.model)
        ids = tokens(model.tokenizer, flags.file)
        for n in flags.responses:
            examples = groups(ids, n, flags, policy=kind == "policy")
            exact = None
            for dtype in flags.dtypes:
                seconds, grads = measure(
                    model.config, params, objective, forward, examples, dtype, flags.rounds
                )
                exact = grads["unshared"] if dtype == "float32" else exact
                lengths = flags.prompt_tokens, n * flags.response_tokens
                row = {"model": kind, "dtype": dtype, "responses": n}
                row["tokens saved"] = 1 - sum(lengths) / (n * lengths[0] + lengths[1])
                row["time saved"] = 1 - seconds["shared"] / seconds["unshared"]
                row["seconds unshared"] = seconds["unshared"]
                row["gradients apart"] = distance(grads["shared"], grads["unshared"])
                row["bfloat16 apart"] = exact and distance(grads["unshared"], exact)
                print(
                    f"| {kind} | {dtype} | {n} | {row['tokens saved']:.1%} | "
                    f"{row['time saved']:.1%} | {row['seconds unshared']:.2f} | "
                    f"{row['gradients apart']:.2e} | {row['bfloat16 apart'] or 0:.2e} |",
                    flush=True,
                )
                rows.append(row)
    return rows


def reward_model(name: str):
    model = RewardModel.load(name, outputs=("reward",), untrained=False)
    plain = {"output": "", "preference": "regular", "label_smoothing": 0.0, "centering": 0.0}
    plain |= {"kind": "bradley_terry", "preference_weight": 1.0}
    return model, model.params, objectives.make(plain, model.outputs), inference.forward


def policy(name: str):
    model, forward = LanguageModel.load(name), inference.token_log_probabilities
    return model, {"decoder": model.params}, objectives.Likelihood(), forward


KINDS = {"reward model": reward_model, "policy": policy}


def tokens(tokenizer, file: str) -> np.ndarray:
    """All responses of a file, one behind the other, as token ids."""
    read = corpora.read(f"hh_rlhf:{file}", on_error="skip", record=Record())
    texts = [text for group in read for text in group.responses]
    return np.concatenate(tokenizer(texts, add_special_tokens=False)["input_ids"]).astype(np.int32)


def groups(ids: np.ndarray, n: int, flags, *, policy: bool) -> list[Example]:
    """Cut groups of n responses out of a stream of tokens; neighbours are pairs."""
    lengths = [flags.prompt_tokens, *[flags.response_tokens] * n]
    parts = np.split(np.resize(ids, (flags.groups, sum(lengths))), np.cumsum(lengths)[:-1], axis=1)
    learned = np.zeros(flags.prompt_tokens, bool) if policy else None
    known = np.zeros((n, 1), np.float32), np.zeros((n, 1), bool)
    pairs = [Pair(i, i + 1, 1.0) for i in range(0, n - 1, 2)]
    return [
        Example(Encoded(each[0], tuple(each[1:]), learned, (0,) * n), *known, pairs)
        for each in zip(*parts, strict=True)
    ]


def measure(config, params, objective, forward, examples, dtype: str, rounds: int):
    """Compute the gradients of a batch in both layouts, in turn; (median seconds, gradients)."""
    prompt, responses = examples[0].encoded.prompt, examples[0].encoded.responses
    n = len(responses)
    length = len(prompt) + len(responses[0])
    row_length = {"shared": len(prompt) + n * len(responses[0]), "unshared": n * length}
    runs, seconds, grads = {}, {name: [] for name in LAYOUTS}, {}
    for name, layout in LAYOUTS.items():
        about = {"batch_size": len(examples), "micro_batch_size": 1, "layout": layout}
        batch = loader.plan(examples, row_length=row_length[name], **about)[0]
        settings = {"layout": layout, "dtype": configs.dtype(dtype)}

        def run(params, batch, settings=settings):
            def apply(params, micro):
                return forward(params, micro, config, **settings)

            return step.gradients(params, batch, objective, apply)[2]

        runs[name] = functools.partial(jax.jit(run), params, jax.tree.map(jnp.asarray, batch))
    for _ in range(rounds + 1):
        for name, run in runs.items():
            grads.pop(name, None)
            begun = time.perf_counter()
            grads[name] = jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}, grads


def distance(x, y) -> float:
    """The relative L2 distance of two trees from one another, over all their leaves."""
    pairs = [
        tuple(map(np.asarray, each)) for each in zip(*map(jax.tree.leaves, (x, y)), strict=True)
    ]
    apart, whole = (
        sum(float(np.sum(np.square(each, dtype=np.float64))) for each in leaves)
        for leaves in ((a - b for a, b in pairs), (b for _, b in pairs))
    )
    return (apart / whole) ** 0.5


if __name__ == "__main__":
    main()
