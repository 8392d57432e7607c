"""From one row of data for judges to a Group, as `rows` does for preferences and ratings.

SummEval (arXiv 2007.12626), BIGGen-Bench (arXiv 2406.05761) and instructions with one response, as
Alpaca's.
"""

import json

from hs2jax.data import rows
from hs2jax.data.benchmark_rows import user_turn
from hs2jax.data.groups import FieldError, Group, check_number, check_text, show

SUMMEVAL = ("coherence", "consistency", "fluency", "relevance")
RUBRIC = ("criteria", *(f"score{i}_description" for i in range(1, 6)))


def summeval(row: dict) -> Group:
    """One summary of an article with the experts' mean ratings from 1 to 5; rows of one article are
    joined later. `article_id` is kept where there is one."""
    article = rows.text(row, "article")
    about = {}
    if row.get("article_id") is not None:
        about["id"] = rows.text(row, "article_id")
    return Group(
        prompt=user_turn(f"Summarize this article in a few sentences.\n\n{article}"),
        responses=(rows.text(row, "summary"),),
        ratings=({name: rows.number(row, name, 1, 5) for name in SUMMEVAL},),
        about=about,
    )


def biggen(row: dict) -> Group:
    """A response and people's `human_score` from 1 to 5 (a number, or a list of which the mean
    counts) by the row's own `score_rubric`, which is kept as JSON in `about`."""
    rubric = rows.present(row, "score_rubric")
    if not isinstance(rubric, dict):
        raise FieldError("score_rubric", f"expected an object, found {show(rubric)}", "wrong type")
    texts = {name: check_text(rubric.get(name), f"score_rubric.{name}") for name in RUBRIC}
    score = rows.present(row, "human_score")
    scores = score if isinstance(score, list) and score else [score]
    scores = [check_number(each, "human_score", 1, 5) for each in scores]
    system = row.get("system_prompt")
    start = () if not system else ({"role": "system", "content": system},)
    return Group(
        prompt=(*start, *user_turn(rows.text(row, "input"))),
        responses=(rows.text(row, "response"),),
        ratings=({"rubric": sum(scores) / len(scores)},),
        about={"rubric": json.dumps(texts)},
    )


def instructions(row: dict) -> Group:
    """An instruction, an `input` where there is one, and the `output` (or `response`)."""
    prompt, extra = rows.text(row, "instruction"), row.get("input")
    if extra is not None and (not isinstance(extra, str) or extra.strip()):
        prompt += "\n\n" + check_text(extra, "input")
    if "output" in row and "response" in row:
        what = "expected either 'output' or 'response', found both"
        raise FieldError("response", what, "two of one field")
    answer = rows.text(row, "response" if "response" in row else "output")
    return Group(prompt=user_turn(prompt), responses=(answer,))
