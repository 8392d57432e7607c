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
TIME = r"\d[\d:]*<[\d:?]+,\s+[\d.?]+(?:s/\w+|\w+/s)"  # Of a bar.
TIMES = re.compile(rf" \[{TIME}\]|(?<=\[){TIME}, ")
OWN = re.compile(r"/\S*?/(?=runs/|pairs\.csv|exported)|/\S*?/ipykernel_\d+/")  # Of this machine.


def cut_model(cache: Path) -> Path:
    """Make a cache of models in which the notebooks' model has its first three layers only, and of
    these the first head. Returns it, for HS2JAX_CACHE."""
    import gguf

    from hs2jax.models.hf import hub

    name = "smollm2-135m-instruct"
    reader = gguf.GGUFReader(hub.resolve(name))
    folder = cache / hub.SHORT[name][1].replace("==", "-")
    folder.mkdir(parents=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    sizes = {"block_count": 3, "embedding_length": 64, "feed_forward_length": 192}
    sizes |= {"attention.head_count": 1, "attention.head_count_kv": 1}
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, of = field.types[0], field.types[-1] if len(field.types) > 1 else None
        value = sizes.get(field.name.removeprefix("llama."), field.contents())
        writer.add_key_value(field.name, value, kind, sub_type=of)
    left = {576: 64, 192: 64, 1536: 192}  # Hidden and all heads', the keys', and feed-forward.
    for tensor in reader.tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        if not layer or int(layer[1]) < sizes["block_count"]:
            whole = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            part = whole[tuple(slice(left.get(n, n)) for n in whole.shape)]
            writer.add_tensor(tensor.name, part.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return cache


def run(path: Path, folder: Path):
    """Run a notebook in a folder; returns it with its outputs. Raises CellExecutionError of a cell
    that fails."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    env["PYTHONWARNINGS"] = "ignore:IProgress"  # Of others' bars where no widgets are.
    # One device, as a person's notebook has: eight of the tests' take longer.
    one = "--xla_force_host_platform_device_count=1"
    env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {one}"
    options = {"timeout": 600, "kernel_name": "python3"}
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options)
    client.execute(env=env)
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
                text = re.sub(r"[^\n]*\r(?!\n)", "", texts[kind])
                texts[kind] = OWN.sub("", TIMES.sub("", text))
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
