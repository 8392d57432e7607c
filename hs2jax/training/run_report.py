"""The page of a run, from what lies in its folders."""

import json
from collections.abc import Sequence
from pathlib import Path

from hs2jax.evaluation import items, report
from hs2jax.training import metrics


def write(workdir: Path | str, stages: Sequence[Path] | None = None) -> Path:
    """Writes report.html and report.md into a run's folder; returns the page's path.

    stages: the folders of a recipe's stages in order; None finds them, or takes the folder itself
    as the only stage. Raises FileNotFoundError where there is no finished run.
    """
    workdir = Path(workdir)
    if stages is None:
        found = sorted(
            workdir.glob("*/evaluation.json"), key=lambda path: (path.stat().st_mtime, path)
        )
        stages = [path.parent for path in found] or [workdir]
    for stage in stages:
        if not (stage / "evaluation.json").exists():
            raise FileNotFoundError(
                f"no finished run in {stage}: there is no evaluation.json (does it still train?)"
            )
    return report.write(workdir, title=workdir.name, stages=[_stage(folder) for folder in stages])


def _stage(folder: Path) -> dict:
    result = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = metrics.read(folder / "metrics.jsonl")
    return {
        "name": folder.name,
        "names": result["outputs"],
        "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
        "metrics": [row for row in rows if row["kind"] == "train"],
        "evaluations": [row for row in rows if row["kind"] == "validation"],
        "summary": result["summary"],
        "items": items.read(folder / "items.jsonl"),
        "record": result["record"],
        "seconds": result["seconds"],
        "environment": result["environment"],
    }
