"""Time scoring, sampling and judging against `transformers`, in one run.

    pip install -e . torch && python experiments/speed/inference.py \\
        --file=DATA/hh_rlhf/helpful_test_1850.jsonl

SmolLM2-135M-Instruct on HH-RLHF helpful; `transformers` takes conversations in order of length. A
round is all of a work, and one before, which compiles, does not count.

score: rewards of both conversations of 64 pairs, by an untrained head. Tokens are those of every
conversation, also where hs2jax computes a pair's prompt once.
sample: 8 prompts, 4 samples of each of at most 128 tokens, temperature 0.7, top-p 0.9, against
`generate`; new tokens count up to a sample's end.
judge: LAGER's expected score, from the logits of all layers, of 16 conversations by one criterion,
against keeping all layers' states (`output_hidden_states`).
"""

import json

import contenders

PROMPTS, SAMPLES, NEW_TOKENS = 8, 4, 128
SETTINGS = {"temperature": 0.7, "top_p": 0.9}
CRITERION = "helpfulness"
CONTENDERS = tuple(
    f"{whose} {how}" for whose in ("hs2jax", "transformers") for how in ("float32", "bfloat16")
)


def main() -> None:
    flags = contenders.parser(__doc__)
    flags.add_argument("--pairs", type=int, default=64, help="that are scored; a quarter is judged")
    flags.add_argument("--batch", type=int, default=8, help="that transformers computes at a time")
    flags.add_argument("--rounds", type=int, default=3, help="that count")
    units = {"score": "tokens", "sample": "new tokens", "judge": "tokens"}
    contenders.race(flags, RUNS, CONTENDERS, units, prepare)


def prepare(folder, flags) -> dict:
    """Write both models, conversations, and their tokens and the judge's, which all take."""
    from hs2jax import Judge, RewardModel
    from hs2jax.data.conversations import group_conversations
    from hs2jax.judging import criteria, judge, score_tokens

    contenders.write_pairs(folder, flags, flags.pairs)
    model = RewardModel.load(folder / "policy", outputs=("reward",), untrained=False)
    model.save(folder / "reward")
    rows = contenders.read_lines(folder / "pairs.jsonl")
    talks = [
        [*row["prompt"], {"role": "assistant", "content": row[side]}]
        for row in rows
        for side in ("chosen", "rejected")
    ]
    groups = group_conversations(talks)
    scored = [part.encoded for (part,) in model.encode(groups)]
    judged = talks[: max(1, len(rows) // 4)]
    criterion = criteria.find(CRITERION)
    requests = [judge.requests_of(group, [criterion])[0] for group in groups[: len(judged)]]
    asked = score_tokens.encode(Judge.load(folder / "policy").model.tokenizer, requests)
    ids = {
        "score": [[*map(int, each.prompt), *map(int, each.responses[0])] for each in scored],
        "judge": [[*map(int, x.encoded.prompt), *map(int, x.encoded.responses[0])] for x in asked],
    }
    answers, scale = asked[0].tokens.tolist(), list(criterion.scale)
    prompts = [row["prompt"] for row in rows[:PROMPTS]]
    made = {"talks": talks, "judged": judged, "prompts": prompts, "ids": ids}
    made |= {"answers": answers, "scale": scale}
    (folder / "made.json").write_text(json.dumps(made), encoding="utf-8")
    tokens = {work: sum(map(len, each)) for work, each in ids.items()}
    return {"score": tokens["score"], "sample": 0, "judge": tokens["judge"]}


def read(folder) -> dict:
    return json.loads((folder / "made.json").read_text(encoding="utf-8"))


# hs2jax -------------------------------------------------------------------------------------------


def score(dtype: str, folder, flags) -> contenders.Timed:
    from hs2jax import RewardModel, configs

    model = RewardModel.load(folder / "reward", dtype=configs.dtype(dtype))
    talks = read(folder)["talks"]
    return contenders.timed(flags.rounds, lambda _: [one.reward for one in model.score(talks)])


def sample(dtype: str, folder, flags) -> contenders.Timed:
    from hs2jax import LanguageModel, configs

    model = LanguageModel.load(folder / "policy", dtype=configs.dtype(dtype))
    prompts = read(folder)["prompts"]

    def run(seed):
        found = model.sample(prompts, SAMPLES, max_new_tokens=NEW_TOKENS, seed=seed, **SETTINGS)
        return sum(len(one.tokens) for of_prompt in found for one in of_prompt)

    return contenders.timed(flags.rounds, run)


def judge(dtype: str, folder, flags) -> contenders.Timed:
    from hs2jax import Judge, configs

    of = Judge.load(folder / "policy", dtype=configs.dtype(dtype))
    talks = read(folder)["judged"]
    return contenders.timed(
        flags.rounds, lambda _: [one.score for one in of.score(talks, criterion=CRITERION)]
    )


# transformers -------------------------------------------------------------------------------------


def loaded(kind: str, path, dtype: str):
    import torch
    import transformers

    model = getattr(transformers, kind).from_pretrained(path, dtype=dtype).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def sorted_batches(ids: list, batch: int, run) -> list[float]:
    """Run batches in order of length, padded on the right with 0; returns a number for each."""
    import torch

    order, found = sorted(range(len(ids)), key=lambda i: -len(ids[i])), {}
    for start in range(0, len(ids), batch):
        some = order[start : start + batch]
        longest = len(ids[some[0]])
        rows = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in some])
        lengths = torch.tensor([len(ids[i]) for i in some])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        with torch.inference_mode():
            found |= zip(some, run(rows, mask, lengths - 1).float().tolist(), strict=True)
    return [found[i] for i in range(len(ids))]


def score_of_transformers(dtype: str, folder, flags) -> contenders.Timed:
    model = loaded("AutoModelForSequenceClassification", folder / "reward", dtype)
    model.config.pad_token_id, ids = 0, read(folder)["ids"]["score"]

    def run(rows, mask, _):
        return model(rows.to(model.device), attention_mask=mask.to(model.device)).logits[:, 0]

    return contenders.timed(flags.rounds, lambda _: sorted_batches(ids, flags.batch, run))


def sample_of_transformers(dtype: str, folder, flags) -> contenders.Timed:
    import torch
    import transformers

    model = loaded("AutoModelForCausalLM", folder / "policy", dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    prompts = read(folder)["prompts"]
    texts = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    how = {"do_sample": True, "top_k": 0, "pad_token_id": tokenizer.pad_token_id} | SETTINGS
    how |= {"num_return_sequences": SAMPLES, "max_new_tokens": NEW_TOKENS}

    def run(seed):
        torch.manual_seed(seed)
        with torch.inference_mode():
            found = model.generate(**batch.to(model.device), **how)
        # The end of turn is also what the rows are padded with.
        ends = (found[:, batch["input_ids"].shape[1] :] == tokenizer.eos_token_id).int()
        return int((ends.cumsum(dim=1) - ends == 0).sum())

    return contenders.timed(flags.rounds, run)


def judge_of_transformers(dtype: str, folder, flags) -> contenders.Timed:
    import torch

    model, made = loaded("AutoModelForCausalLM", folder / "policy", dtype), read(folder)
    columns = model.lm_head.weight[made["answers"]].float()
    scale = torch.tensor(made["scale"], dtype=torch.float32, device=model.device)

    def run(rows, mask, last):
        given = {"attention_mask": mask.to(model.device), "output_hidden_states": True}
        states = model.model(rows.to(model.device), **given).hidden_states
        here = torch.stack([each[torch.arange(len(rows)), last] for each in states])
        # The last one has passed the final norm already.
        normed = torch.cat([model.model.norm(here[:-1]), here[-1:]]).float()
        return (normed @ columns.T).mean(dim=0).softmax(dim=-1) @ scale

    ids = made["ids"]["judge"]
    return contenders.timed(flags.rounds, lambda _: sorted_batches(ids, flags.batch, run))


RUNS = {
    ("score", "hs2jax"): score,
    ("score", "transformers"): score_of_transformers,
    ("sample", "hs2jax"): sample,
    ("sample", "transformers"): sample_of_transformers,
    ("judge", "hs2jax"): judge,
    ("judge", "transformers"): judge_of_transformers,
}

if __name__ == "__main__":
    main()
