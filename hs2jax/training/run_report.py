"""The page of a run, an evaluation or a recipe of them, from what lies in its folders."""

import json
from collections.abc import Sequence
from pathlib import Path

from hs2jax.evaluation import evaluation_report, expo_report, items, policy_report, report
from hs2jax.evaluation.report import Section
from hs2jax.training import metrics

RESULTS = ("evaluation.json", "expo.json")


def write(workdir: Path | str, stages: Sequence[Path] | None = None) -> Path:
    """Writes report.html and report.md into a folder; returns the page's path.

    stages: the folders of a recipe's stages in order; None finds them, or takes the folder itself
    as the only stage. Raises FileNotFoundError where there is nothing finished.
    """
    workdir = Path(workdir)
    if stages is None:
        found = [path for name in RESULTS for path in workdir.glob(f"*/{name}")]
        found.sort(key=lambda path: (path.stat().st_mtime, path))
        stages = [path.parent for path in found] or [workdir]
        if (workdir / "evaluation.json").exists():  # Folders in it are comparisons.
            stages = [workdir]
    for stage in stages:
        if not any((stage / name).exists() for name in RESULTS):
            raise FileNotFoundError(
                f"no finished run in {stage}: there is neither of {' and '.join(RESULTS)} (does it "
                "still go on? The same command that made it finishes it)"
            )
    if len(stages) == 1:
        (stage,) = stages
        writers = {"evaluation": evaluation_report.write, "expo": expo_report.write}
        if stage == workdir and (kind := kind_of(stage)) in writers:
            return writers[kind](workdir)
    sections = [section for stage in stages for section in _sections(stage)]
    return report.write_page(workdir, workdir.name, None, sections)


def kind_of(folder: Path) -> str:
    """ "training", "policy", "evaluation" or "expo": what a finished folder holds."""
    if (folder / "expo.json").exists():
        return "expo"
    result = _result(folder)
    return result.get("kind") or ("evaluation" if "sets" in result else "training")


def _result(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def _sections(folder: Path) -> list[Section]:
    kind = kind_of(folder)
    if kind == "training":
        names = _result(folder)["outputs"]
        return [report.section({**_stage(folder), "names": names})]
    if kind == "policy":
        return [policy_report.section(_stage(folder))]
    said = [expo_report.section(folder)] if kind == "expo" else evaluation_report.sections(folder)
    return [section._replace(name=f"{folder.name}: {section.name}") for section in said]


def _stage(folder: Path) -> dict:
    """What `report.section` and `policy_report.section` take."""
    rows = metrics.read(folder / "metrics.jsonl")
    return {
        **_result(folder),
        "name": folder.name,
        "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
        "metrics": [row for row in rows if row["kind"] == "train"],
        "evaluations": [row for row in rows if row["kind"] == "validation"],
        "items": items.read(folder / "items.jsonl"),
    }
