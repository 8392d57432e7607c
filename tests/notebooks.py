"""The notebooks of colab/, run from top to bottom: `python tests/notebooks.py NAME ...` runs them
and keeps what they show."""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parent.parent / "colab"
PATHS = sorted(FOLDER.glob("*.ipynb"))
OWN = re.compile(r"/\S*?/(?=runs/|pairs\.csv|exported)|/tmp/ipykernel_\d+/")  # Of this machine.


def run(path: Path, folder: Path):
    """Run a notebook in a folder; returns it with its outputs. Raises CellExecutionError of a cell
    that fails."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = str(FOLDER.parent)
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress"  # Of others' bars where no widgets are.
    options = {"timeout": 600, "kernel_name": "python3"}
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options).execute()
    return notebook


def kept(notebook):
    """Leave of a notebook what is shown in the end: of bars their last line, no times, no widgets'
    state, and no paths of this machine."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        shown = []
        for output in cell.get("outputs", ()):
            if shown and output.get("name") and output.get("name") == shown[-1].get("name"):
                shown[-1].text += output.text
            else:
                shown.append(output)
        for output in shown:
            texts = output.get("data", output)
            for kind in {"text", "text/plain", "text/html"} & texts.keys():
                texts[kind] = OWN.sub("", re.sub(r"[^\n]*\r(?!\n)", "", texts[kind]))
        if cell.cell_type == "code":
            cell["outputs"] = [x for x in shown if x.get("text", "x").strip()]
    return notebook


if __name__ == "__main__":
    for each in [x for x in PATHS if x.stem in sys.argv[1:]] or PATHS:
        begun = time.time()
        with tempfile.TemporaryDirectory() as folder:
            done = kept(run(each, Path(folder)))
        nbformat.validate(done)
        nbformat.write(done, each)
        print(f"{each.name}: {time.time() - begun:.0f} s")
