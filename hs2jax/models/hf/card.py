"""The card of an exported model, README.md: what it is, how to load it, how it was made."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hs2jax.models.hf.checkpoint_files import read_json

NAME = "README.md"
MADE = "\n## How it was made\n"  # What comes below it is not known from the folder.

_HEAD = """---
library_name: transformers
pipeline_tag: {pipeline}
tags: [hs2jax, {tag}]{base}
---

# {title}

"""
_REWARD = """A reward model (`{architecture}`, {dtype}): from a conversation that ends with the \
assistant's answer, {outputs}. Scores are raw: no sigmoid, no softmax, no mean or deviation is \
applied. They are read at the last token of the conversation in the tokenizer's own chat \
template{template}, without a prompt for another answer.{weights}{bias}

## How to load it

With `transformers`:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # This folder, or its name on the hub.
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
conversation = [
    {{"role": "user", "content": "What is 12 + 30?"}},
    {{"role": "assistant", "content": "42"}},
]
text = tokenizer.apply_chat_template(conversation, tokenize=False)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
with torch.no_grad():
    scores = model(**inputs).logits[0].tolist()
print(dict(zip(model.config.id2label.values(), scores)))
```

With hs2jax, many at a time, and text that looks like control tokens stays text: \
`RewardModel.load(folder).score([conversation])`, or as a server, which takes the requests of \
vLLM's and OpenRLHF's clients: `hs2jax serve --model=FOLDER`.
"""
_SCALAR = """
In TRL, as the reward of GRPO or RLOO: `GRPOTrainer(reward_funcs="FOLDER", ...)`, with prompts as \
lists of messages.

In OpenRLHF: `--reward_pretrain FOLDER --value_head_prefix score`.
"""
_SEVERAL = """
TRL and OpenRLHF take one score: `hs2jax convert --model=FOLDER --output=SCALAR --scalar \
--weights={weights}` folds these outputs into one.
"""
_VLLM = """
In vLLM (0.12 and later), asked with `POST /pooling {{"messages": [...], "task": "classify"}}`:

```
vllm serve FOLDER --runner pooling --pooler-config '{{"use_activation": false}}'
```
"""
_POLICY = """A language model (`{architecture}`, {dtype}). With `transformers`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # This folder, or its name on the hub.
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
```

With hs2jax `LanguageModel.load(folder)`, with vLLM `vllm serve FOLDER`.
"""


def foreign(folder: Path) -> bool:
    """Tell whether a folder's README.md is of somebody else."""
    place = folder / NAME
    return place.exists() and "tags: [hs2jax" not in place.read_text(encoding="utf-8")


def write(folder: Path, made: str = "") -> None:
    """Write the card of an exported folder from its config.json, unless there is a foreign one.
    made: how it was made, see `made_by` and `made_of`."""
    if foreign(folder):
        return
    config = read_json(folder / "config.json")
    about, names = config.get("hs2jax") or {}, list((config.get("id2label") or {}).values())
    values = {"architecture": config["architectures"][0], "dtype": config.get("dtype", "float32")}
    rewards = values["architecture"].endswith("ForSequenceClassification")
    base = re.search(r"\| model\.name \| ([\w-]+/[\w.-]+) \|", made)
    text = _HEAD.format(
        pipeline="text-classification" if rewards else "text-generation",
        tag="reward-model" if rewards else "policy",
        base=f"\nbase_model: {base[1]}" if base else "",
        title=f"{'Reward' if rewards else 'Language'} model: {config['model_type']}",
    )
    if rewards:
        weights = ",".join(f"{x}={w:g}" for x, w in (about.get("weights") or {}).items())
        given, name = f" As one reward: {weights}." if weights else "", about.get("template_name")
        values |= {"outputs": f"the score{'s' * (len(names) > 1)} {', '.join(names)}"}
        values |= {"weights": given, "template": "" if name in (None, "own") else f" ({name})"}
        bias = " hs2jax adds the head's bias, which `transformers` leaves out."
        values |= {"bias": bias if about.get("bias") else ""}
        more = _SCALAR if len(names) == 1 else _SEVERAL
        weights = weights or ",".join(f"{name}=1" for name in names)
        text += _REWARD.format(**values) + more.format(weights=weights) + _VLLM.format()
    else:
        text += _POLICY.format(**values)
    (folder / NAME).write_text(text + (f"{MADE}\n{made}\n" if made else ""), encoding="utf-8")


def made_by(inputs: Mapping[str, object], rows: Iterable[Mapping]) -> str:
    """Say by which inputs (by key of a config) and with which results (rows of `workdir.row`, those
    that have an interval) a model was made."""
    lines = ["| | |", "|---|---|", *(f"| {key} | {_cell(x)} |" for key, x in inputs.items())]
    scores = [row for row in rows if row["low"] is not None and not row["part"]]
    if scores:
        lines += ["", "| data | measure | value | 95% interval | n |", "|---|---|---|---|---|"]
    for row in scores:
        measure = " ".join(filter(None, [row["metric"].replace("_", " "), row.get("method")]))
        ends = f"{row['low']:.4g} to {row['high']:.4g}"
        lines.append(f"| {row['set']} | {measure} | {row['value']:.4g} | {ends} | {row['n']} |")
    return "\n".join(lines)


def made_of(folder: Path) -> str:
    """Take what the card of an export says of how it was made; "" where it says nothing."""
    place = folder / NAME
    there = place.is_file() and not foreign(folder)
    return place.read_text(encoding="utf-8").partition(MADE)[2].strip() if there else ""


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|")
