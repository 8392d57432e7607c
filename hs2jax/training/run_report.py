"""The page of a run, an evaluation or a recipe of them, from what lies in its folders.

Stages that make rows or models for others, such as samples, have a table of what they made; a
stage with a page of its own that is not made of sections here (steering, a judge) is named.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from hs2jax.evaluation import (
    evaluation_report,
    items,
    policy_report,
    report,
    statistics,
)
from hs2jax.evaluation.report import Section, Verdict
from hs2jax.evaluation.tables import Table, listing, stage_tables
from hs2jax.training import metrics

RESULTS = ("evaluation.json",)
MADE = "result.json"
ELSEWHERE = ("steering.json", "judge.json")  # Beside a page of their own.


def write(workdir: Path | str, stages: Sequence[Path] | None = None) -> Path:
    """Writes report.html and report.md into a folder; returns the page's path.

    stages: the folders of a recipe's stages in order; None finds them, or takes the folder itself
    as the only stage. Raises FileNotFoundError where there is nothing finished.
    """
    workdir = Path(workdir)
    every = (*RESULTS, MADE, *ELSEWHERE)
    if stages is None:
        found = [path for name in every for path in workdir.glob(f"*/{name}")]
        found.sort(key=lambda path: (path.stat().st_mtime, path))
        stages = [path.parent for path in found] or [workdir]
        recipe = (workdir / MADE).exists() and '"stages"' in (workdir / MADE).read_text()
        if not recipe and any((workdir / name).exists() for name in ("evaluation.json", MADE)):
            stages = [workdir]  # Folders in it are comparisons.
    for stage in stages:
        if not any((stage / name).exists() for name in every):
            raise FileNotFoundError(
                f"no finished run in {stage}: there is none of {', '.join(every)} (does it still "
                "go on? The same command that made it finishes it)"
            )
    if len(stages) == 1:
        (stage,) = stages
        if stage == workdir and kind_of(stage) == "evaluation":
            return evaluation_report.write(workdir)
    sections = [section for stage in stages for section in _sections(stage)]
    return report.write_page(workdir, workdir.name, None, sections)


def kind_of(folder: Path) -> str:
    """ "training", "policy", "evaluation", "expo", "made" or "elsewhere": what a finished folder
    holds."""
    if (folder / MADE).exists():
        kind = json.loads((folder / MADE).read_text(encoding="utf-8")).get("kind")
        return {
            "train_reward_model": "training",
            "train_policy": "policy",
            "expo": "elsewhere",
        }.get(kind, "made")
    if not (folder / "evaluation.json").exists():
        return "elsewhere"
    result = _result(folder)
    return result.get("kind") or ("evaluation" if "sets" in result else "training")


def _result(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def _sections(folder: Path) -> list[Section]:
    kind = kind_of(folder)
    if kind == "training":
        stage = _stage(folder)
        stage["summary"] = statistics.summarize(
            stage["items"], stage["outputs"], stage["rating_means"]
        )
        return [report.section({**stage, "names": stage["outputs"]})]
    if kind == "policy":
        return [policy_report.section(_stage(folder))]
    if kind == "made":
        return [made(folder)]
    if kind == "elsewhere":
        table = Table("Report", ["", ""], [["its own page", f"{folder.name}/report.html"]])
        return [Section(folder.name, [], [], [], [table], [])]
    said = evaluation_report.sections(folder)
    return [section._replace(name=f"{folder.name}: {section.name}") for section in said]


def made(folder: Path) -> Section:
    """What a stage says in result.json: numbers in one table, and a column of another for each
    part of what has several, as each attribute has."""
    result = json.loads((folder / MADE).read_text(encoding="utf-8"))
    if "records" in result:
        result["record"] = next(iter(result.pop("records").values()))
    stage = {name: result.pop(name) for name in ("record", "seconds", "config", "environment")}
    warnings = [Verdict("bad", "Warning", f"{text}.") for text in result.pop("warnings", ())]
    rows, tables = [], []
    for name, value in result.items():
        parts = list(value.values()) if isinstance(value, dict) else []
        if parts and all(isinstance(each, dict) for each in parts):
            columns = [listing(each, ",") for each in parts]
            lines = [
                [line[0][0], *(text for _, text in line)] for line in zip(*columns, strict=True)
            ]
            tables.append(Table(name.capitalize(), ["", *value], lines))
        else:
            rows += listing({name.replace("_", " "): value}, ",")
    tables = [Table("What it made", ["", "value"], rows), *tables, *stage_tables(stage, {})]
    return Section(folder.name, warnings, [], [], tables, [])


def _stage(folder: Path) -> dict:
    """What `report.section` and `policy_report.section` take."""
    rows = metrics.read(folder / "metrics.jsonl")
    result = json.loads((folder / MADE).read_text(encoding="utf-8"))
    found = items.read(folder / "items" / "validation.jsonl")
    size = {"groups": len(found), "responses": sum(len(each["responses"]) for each in found)}
    return {
        **result,
        "record": result["records"]["train"],
        "summary": result["values"] | size,
        "name": folder.name,
        "metrics": [row for row in rows if row["kind"] == "train"],
        "evaluations": [row for row in rows if row["kind"] == "validation"],
        "items": found,
    }
