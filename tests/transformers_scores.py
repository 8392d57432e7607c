"""Scores by `transformers` alone, one conversation at a time, beside those of an evaluation.

    python tests/transformers_scores.py MODEL WORKDIR/items/NAME.jsonl 100

prints the largest difference over the first 100 items.
"""

import json
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def largest_difference(folder, items) -> float:
    """Between the outputs of the items and what the exported folder gives, over all responses.

    For items whose prompts are one user turn, whose text an item holds as it is.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    largest = 0.0
    for item in items:
        for response, outputs in zip(item["responses"], item["outputs"], strict=True):
            turns = [
                {"role": "user", "content": item["prompt"]},
                {"role": "assistant", "content": response},
            ]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
            with torch.no_grad():
                found = model(**ids).logits[0]
            largest = max(largest, float((found - torch.tensor(outputs)).abs().max()))
    return largest


if __name__ == "__main__":
    folder, path, count = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        items = [json.loads(line) for line in file][: int(count)]
    print(f"{largest_difference(folder, items):.2e} over {len(items)} items of {path}")
