"""The notebooks of colab/: whole, plain and with what they show; NOTEBOOKS=1 runs them, on a model
cut to a head of its first layers, and with LONG=1 on the whole one."""

import ast
import os
import re

import pytest

nbformat = pytest.importorskip("nbformat")

import notebooks  # noqa: E402

NAMES = [path.stem for path in notebooks.PATHS]


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_whole_and_holds_no_state_of_widgets(name):
    notebook = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert notebooks.kept(notebook) == nbformat.read(
        notebooks.FOLDER / f"{name}.ipynb", as_version=4
    )
    setup = (notebooks.FOLDER.parent / "setup.py").read_text()
    (place,) = re.findall(r'url="https://github\.com/(.*)"', setup)
    badge = f"https://colab.research.google.com/github/{place}/blob/main/colab/{name}.ipynb"
    assert badge in notebook.cells[0].source
    assert {*re.findall(r"https://github\.com/(\w+/\w+)", str(notebook.cells))} == {place}
    shown = [output for cell in code(notebook)[1:] for output in cell.outputs]
    assert len(shown) >= len(code(notebook)) - 3
    assert not [x for x in shown if x.output_type == "error"]
    for text in (x.text for x in shown if x.output_type == "stream"):
        assert "\r" not in text
        assert "Traceback" not in text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_below_the_package_s_top_level_is_imported(name):
    notebook = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    for cell in code(notebook)[1:]:
        for node in ast.walk(ast.parse(cell.source)):
            names = [x.name for x in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [x for x in names if x.startswith("hs2jax.")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("LONG"):
            cut = notebooks.cut_model(tmp_path_factory.mktemp("cache"))
            patch.setenv("HS2JAX_CACHE", str(cut))
        yield


@pytest.mark.skipif(not os.environ.get("NOTEBOOKS"), reason="NOTEBOOKS=1 runs them: minutes")
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, cache):
    done = notebooks.kept(notebooks.run(notebooks.FOLDER / f"{name}.ipynb", tmp_path))
    there = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    for now, before in zip(code(done), code(there), strict=True):
        kinds = [[x.output_type for x in cell.outputs] for cell in (now, before)]
        assert kinds[0][-1:] == kinds[1][-1:], now.source
