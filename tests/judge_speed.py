"""What the judge costs beside a plain forward pass, and beside the straightforward way.

    python tests/judge_speed.py --items=16 --repetitions=7

prints Markdown tables of time and memory, all of one run. The straightforward way is that of
LAGER's repository (arXiv 2508.03550): `transformers` generates up to ten tokens, keeps the hidden
states of all layers, and the whole unembedding is applied to those at the score.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from hs2jax.data.conversations import unrated
from hs2jax.inference import plan_rows, run_decoder
from hs2jax.judging import criteria, judge, prompts, score_tokens
from hs2jax.judging.judge import Judge
from hs2jax.models.hf import hub, weights

PLAIN, JUDGE = "plain forward pass", "judge"
STRAIGHT = "transformers, generating with all hidden states"
MIB = 2**20


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def plain(params, batch, config, *, dtype):
    """Hidden states [B, T, D]."""
    return run_decoder(params, batch, config, dtype=dtype)[0]


def made_items(count: int) -> list[tuple[str, str]]:
    """(prompt, response) pairs of about 300 tokens together."""
    rng, words = np.random.default_rng(0), " ".join(tiny.SENTENCES).split()
    sizes = [(rng.integers(20, 80), rng.integers(130, 230)) for _ in range(count)]
    return [tuple(" ".join(rng.choice(words, n)) + "." for n in both) for both in sizes]


def micro_batches(asked) -> list[dict]:
    """The rows that a judge makes of requests, as many at a time as it takes."""
    examples = [unrated(each.encoded.prompt, each.encoded.responses) for each in asked]
    batches = plan_rows(examples, layout="shared")
    return [
        {name: jnp.asarray(x[m]) for name, x in batches[i].items()}
        for i, rows in enumerate(batches.plan)
        for m in range(-(-len(rows) // batches.micro_batch_size))
    ]


def seconds(ways: dict, repetitions: int) -> dict[str, float]:
    """The median time of each, taken in turns, after one turn that is not counted."""
    taken = {name: [] for name in ways}
    for _ in range(repetitions + 1):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def print_memory(of: Judge, asked) -> None:
    """What the two passes need besides their arguments, as compiled: their results count, since
    what is the plain pass's result is a step on the way for the judge."""
    config, batch = of.model.config, micro_batches(asked)[0]
    dtype = of.model.params["embed"].dtype
    columns = jax.ShapeDtypeStruct((len(asked[0].tokens), config.hidden_size), dtype)
    print(f"\n| memory besides arguments, MiB | {PLAIN} | {JUDGE} |\n| --- | --- | --- |")
    for name, change in {
        "as it is": {},
        "4 times the vocabulary": {"vocab_size": 4 * config.vocab_size},
        "twice the layers": {"num_layers": 2 * config.num_layers},
    }.items():
        how = {"config": dataclasses.replace(config, **change), "dtype": of.model.dtype}
        shapes = weights.shapes(how["config"])
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
        forward = plain.lower({"decoder": params}, batch, **how)
        judged = judge.run.lower(params, batch, columns=columns, states=False, **how)
        needed = [each.compile().memory_analysis() for each in (forward, judged)]
        found = [(each.temp_size_in_bytes + each.output_size_in_bytes) / MIB for each in needed]
        print(f"| {name} | {found[0]:.2f} | {found[1]:.2f} |", flush=True)


def load_straightforward(of: Judge):
    """The model in `transformers`."""
    import torch
    import transformers

    model, dtype = of.model, torch.bfloat16 if of.model.dtype == jnp.bfloat16 else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        hub.save(folder, config=model.config, params=model.params, tokenizer=model.tokenizer)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def read_straightforward(model, asked, pad: int, together: int) -> tuple[np.ndarray, int]:
    """(logits [questions, L + 1, S] at the score, the most bytes of hidden states that were kept at
    a time), each question a row of its own, `together` of them at a time."""
    import torch

    rows = [np.concatenate([a.encoded.prompt, r]) for a in asked for r in a.encoded.responses]
    logits, most = [], 0
    for start in range(0, len(rows), together):
        some = rows[start : start + together]
        longest = max(map(len, some))
        ids = torch.tensor([[pad] * (longest - len(row)) + row.tolist() for row in some])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in some])
        with torch.no_grad():
            how = {"attention_mask": mask.to(model.device), "do_sample": False, "pad_token_id": pad}
            how |= {"output_hidden_states": True, "return_dict_in_generate": True}
            out = model.generate(ids.to(model.device), max_new_tokens=10, **how)
            # The prompts end right before the score, so it is the first token that is generated.
            states = torch.stack([layer[:, -1] for layer in out.hidden_states[0]], dim=1)
            found = model.lm_head(states)[..., asked[0].tokens.tolist()]
        logits.append(found.float().cpu().numpy())
        most = max(most, sum(x.nbytes for step in out.hidden_states for x in step))
    return np.concatenate(logits), most


def print_times(of: Judge, other, wanted, repetitions: int) -> None:
    """Time of every way for these requests, and how far apart what they find is."""
    model, items = of.model, len(wanted)
    asked = score_tokens.encode(model.tokenizer, wanted)
    batches, how = micro_batches(asked), {"config": model.config, "dtype": model.dtype}
    columns = of.columns(asked[0].tokens)
    forward = functools.partial(plain, {"decoder": model.params}, **how)
    judged = functools.partial(judge.run, model.params, columns=columns, states=False, **how)
    ways = {
        PLAIN: lambda: [jax.block_until_ready(forward(batch)) for batch in batches],
        JUDGE: lambda: [jax.block_until_ready(judged(batch)) for batch in batches],
    }
    taken = seconds(ways, repetitions)
    if other is not None:
        pad = model.config.pad_id or 0
        straight = functools.partial(read_straightforward, other, asked, pad, items)
        taken |= seconds({STRAIGHT: straight}, repetitions)
    print(f"\n{sum(len(each.encoded.responses) for each in asked)} questions, {items} items\n")
    print(f"| way | seconds | items per second | against the {PLAIN} | against the {JUDGE} |")
    print("| --- | --- | --- | --- | --- |")
    for way, each in taken.items():
        ratios = f"{each / taken[PLAIN]:.3f} | {each / taken[JUDGE]:.3f}"
        print(f"| {way} | {each:.3f} | {items / each:.2f} | {ratios} |", flush=True)
    if other is not None:
        theirs, kept = straight()
        ours = np.concatenate([reading.logits[:, 0] for reading in of.ask(wanted)])
        apart = np.abs(ours - theirs) / np.abs(theirs).max(axis=-1, keepdims=True)
        print(
            f"\ntransformers keeps {kept / MIB:,.1f} MiB of hidden states at a time. Largest "
            f"difference of logits, against their layer's largest: {apart.max():.1e}"
        )


def main(name: str, items: int, repetitions: int) -> None:
    of, other = Judge.load(name), None
    print(f"{name} in {np.dtype(of.model.dtype)}, jax {jax.__version__} on {jax.devices()[0]}")
    try:
        other = load_straightforward(of)
    except ImportError as error:
        print(f"Without the straightforward way: {error}")
    for count in (1, 5):
        chosen = criteria.load("helpsteer")[:count]
        wanted = [prompts.pointwise(*texts, chosen) for texts in made_items(items)]
        print_times(of, other, wanted, repetitions)
    print_memory(of, score_tokens.encode(of.model.tokenizer, wanted))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    for name, default in (("--items", 16), ("--repetitions", 7)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    main(options.model, options.items, options.repetitions)
