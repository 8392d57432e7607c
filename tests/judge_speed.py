"""What the judge costs beside a plain forward pass, and beside the straightforward way.

    python tests/judge_speed.py --items=16 --repetitions=7

prints Markdown tables of time and memory, all of one run. The straightforward way is that of
LAGER's repository (arXiv 2508.03550): `transformers` generates up to ten tokens, keeps the hidden
states of all layers, and the whole unembedding is applied to those at the score.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from hs2jax.data.conversations import unrated
from hs2jax.inference import hidden_states, plan_rows
from hs2jax.judging import criteria, judge, prompts, score_tokens
from hs2jax.judging.judge import Judge
from hs2jax.judging.prompts import Request
from hs2jax.judging.score_tokens import Asked
from hs2jax.models import decoder
from hs2jax.models.config import Config
from hs2jax.models.hf import hub

SEED = 0
WORDS = " ".join(tiny.SENTENCES).split()
CRITERIA = (1, 5)  # How many there are for each item.
NEW_TOKENS = 10
PLAIN, JUDGE = "plain forward pass", "judge"
STRAIGHT = "transformers, generating with all hidden states"
MIB = 2**20

plain = jax.jit(hidden_states, static_argnames=("config", "layout", "dtype"))


def made_items(count: int) -> list[tuple[str, str]]:
    """(prompt, response) pairs of about 300 tokens together."""
    rng = np.random.default_rng(SEED)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS, words)).capitalize() + "."

    return [(text(rng.integers(20, 80)), text(rng.integers(130, 230))) for _ in range(count)]


def micro_batches(asked: list[Asked]) -> tuple[list[dict], int]:
    """The rows that a judge makes of requests, as many at a time as it takes; and their length."""
    examples = [unrated(each.encoded.prompt, each.encoded.responses) for each in asked]
    batches = plan_rows(examples, layout="shared")
    found = []
    for i in range(len(batches)):
        for m in range(-(-len(batches.plan[i]) // batches.micro_batch_size)):
            found.append({name: jnp.asarray(x[m]) for name, x in batches[i].items()})
    return found, batches.shape.length


def seconds(ways: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """The median time of each, taken in turns, after one turn that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repetitions + 1):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            if turn:
                taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each) for name, each in taken.items()}


def time_passes(of: Judge, asked: list[Asked], repetitions: int) -> dict[str, float]:
    """Seconds of a plain forward pass and of the judge's, over the same rows."""
    model = of.model
    batches, _ = micro_batches(asked)
    columns = of.columns(asked[0].tokens)
    how = {"config": model.config, "dtype": model.dtype}
    ways = {
        PLAIN: lambda batch: plain({"decoder": model.params}, batch, layout="shared", **how),
        JUDGE: lambda batch: judge.run(model.params, batch, columns=columns, states=False, **how),
    }
    return seconds(
        {
            name: lambda way=way: [jax.block_until_ready(way(batch)) for batch in batches]
            for name, way in ways.items()
        },
        repetitions,
    )


def needed_bytes(config: Config, dtype, stored, batch: dict, answers: int) -> dict[str, int]:
    """Memory that the two passes need besides their arguments, as compiled: their results count,
    since what is the plain pass's result is a step on the way for the judge."""

    def abstract(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    params = jax.tree.map(lambda leaf: abstract(leaf.shape, stored), decoder.shapes(config))
    batch = {name: abstract(x.shape, x.dtype) for name, x in batch.items()}
    columns = abstract((answers, config.hidden_size), stored)
    how = {"config": config, "dtype": dtype}
    lowered = {
        PLAIN: plain.lower({"decoder": params}, batch, layout="shared", **how),
        JUDGE: judge.run.lower(params, batch, columns=columns, states=False, **how),
    }
    found = {name: each.compile().memory_analysis() for name, each in lowered.items()}
    return {name: m.temp_size_in_bytes + m.output_size_in_bytes for name, m in found.items()}


def print_memory(of: Judge, asked: list[Asked]) -> None:
    config = of.model.config
    batch = micro_batches(asked)[0][0]
    stored = of.model.params["embed"].dtype
    variants = {
        "as it is": config,
        "4 times the vocabulary": dataclasses.replace(config, vocab_size=4 * config.vocab_size),
        "twice the layers": dataclasses.replace(config, num_layers=2 * config.num_layers),
    }
    print("\nMemory besides parameters and inputs, for one batch of rows:\n")
    print(f"| model | vocabulary | layers | {PLAIN}, MiB | {JUDGE}, MiB | more, KiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, variant in variants.items():
        found = needed_bytes(variant, of.model.dtype, stored, batch, len(asked[0].tokens))
        print(
            f"| {name} | {variant.vocab_size:,} | {variant.num_layers} "
            f"| {found[PLAIN] / MIB:.2f} | {found[JUDGE] / MIB:.2f} "
            f"| {(found[JUDGE] - found[PLAIN]) / 1024:+.1f} |",
            flush=True,
        )


class Straightforward:
    """`transformers`' way, on the same token ids, each question a row of its own."""

    def __init__(self, of: Judge):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = of.model
        dtype = torch.bfloat16 if model.dtype == jnp.bfloat16 else torch.float32
        with tempfile.TemporaryDirectory() as folder:
            hub.save(folder, config=model.config, params=model.params, tokenizer=model.tokenizer)
            loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = loaded.to(self.device).eval()
        self.pad = model.config.pad_id or 0

    def versions(self) -> str:
        return f"torch {self.torch.__version__} on {self.device}"

    def read(self, asked: list[Asked], together: int) -> tuple[np.ndarray, int]:
        """(logits [questions, L + 1, S] at the score, the most bytes of hidden states that were
        kept at a time), `together` questions at a time."""
        rows = [
            np.concatenate([each.encoded.prompt, rest])
            for each in asked
            for rest in each.encoded.responses
        ]
        tokens = self.torch.as_tensor(asked[0].tokens, device=self.device)
        logits, most = [], 0
        with self.torch.no_grad():
            for start in range(0, len(rows), together):
                found, kept = self._some(rows[start : start + together], tokens)
                logits.append(found)
                most = max(most, kept)
        return np.concatenate(logits), most

    def _some(self, rows: list[np.ndarray], tokens) -> tuple[np.ndarray, int]:
        torch, longest = self.torch, max(map(len, rows))
        ids = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :] = torch.as_tensor(row)
            mask[i, longest - len(row) :] = 1
        out = self.model.generate(
            ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
            pad_token_id=self.pad,
        )
        kept = sum(x.numel() * x.element_size() for step in out.hidden_states for x in step)
        # The prompts end right before the score, so it is the first token that is generated.
        states = torch.stack([layer[:, -1] for layer in out.hidden_states[0]], dim=1)
        return self.model.lm_head(states)[..., tokens].float().cpu().numpy(), kept


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, each against its layer's largest logit."""
    return float((np.abs(ours - theirs) / np.abs(theirs).max(axis=-1, keepdims=True)).max())


def print_times(
    of: Judge, straight: Straightforward | None, wanted: list[Request], repetitions: int
) -> None:
    """Time of every way for these requests, and how far apart what they find is."""
    asked = score_tokens.encode(of.model.tokenizer, wanted)
    batches, length = micro_batches(asked)
    rows = [len(each.encoded.prompt) + len(r) for each in asked for r in each.encoded.responses]
    items = len(wanted)
    print(
        f"\n{len(rows)} questions about {items} items, each of {statistics.mean(rows):.0f} tokens "
        f"({min(rows)} to {max(rows)}); the judge's rows: {len(batches)} times "
        f"{len(batches[0]['tokens'])} of {length} tokens\n"
    )
    taken = time_passes(of, asked, repetitions)
    if straight is not None:
        taken |= seconds({STRAIGHT: lambda: straight.read(asked, items)}, repetitions)
    print(f"| way | seconds | items per second | against the {PLAIN} | against the {JUDGE} |")
    print("| --- | --- | --- | --- | --- |")
    for way, each in taken.items():
        ratios = f"{each / taken[PLAIN]:.3f} | {each / taken[JUDGE]:.3f}"
        print(f"| {way} | {each:.3f} | {items / each:.2f} | {ratios} |", flush=True)
    if straight is not None:
        theirs, kept = straight.read(asked, items)
        logits = [reading.logits for reading in of.ask(wanted)]
        ours = np.concatenate([each[:, 0] for each in logits])
        print(
            f"\ntransformers keeps {kept / MIB:,.1f} MiB of hidden states at a time, for {items} "
            f"questions; the judge's result is {sum(x.nbytes for x in logits) / MIB:.3f} MiB. "
            f"Largest relative difference of their logits: {difference(ours, theirs):.1e}"
        )


def main(name: str, items: int, repetitions: int) -> None:
    of = Judge.load(name)
    print(
        f"{name} in {np.dtype(of.model.dtype)}, medians of {repetitions} turns; "
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}"
    )
    try:
        straight = Straightforward(of)
        print(straight.versions())
    except ImportError as error:
        straight = None
        print(f"Without the straightforward way: {error}")
    for count in CRITERIA:
        chosen = criteria.load("helpsteer")[:count]
        wanted = [prompts.pointwise(*texts, chosen) for texts in made_items(items)]
        print_times(of, straight, wanted, repetitions)
    print_memory(of, score_tokens.encode(of.model.tokenizer, wanted))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    main(options.model, options.items, options.repetitions)
