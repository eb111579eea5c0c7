"""The notebooks run from top to bottom, on little data, and are kept without outputs."""

import json
import os
import re
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from jaxhash import models, nets, runs
from jaxhash.config import Config
from jaxhash.training import planning

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BITS, KERNELS = (ROOT / "notebooks" / f"{n}.ipynb" for n in ("bit_distributions", "search_kernels"))


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook from a folder beside an empty `runs`; returns its outputs, cell by cell."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    for name in [name for name in os.environ if name.startswith("JAXHASH_")]:
        monkeypatch.delenv(name)

    def run(path, **settings):
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        notebook = nbformat.read(path, 4)
        client = NotebookClient(
            notebook,
            timeout=900,  # against hanging only: a busy machine may take its time
            startup_timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        )
        client.execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        for ours in (str(ROOT / "jaxhash"), str(ROOT / "search"), "ipykernel_"):
            assert ours not in text_of(outputs, "stderr"), "a warning of our own code"
        return outputs

    return run


def text_of(outputs, stream="stdout"):
    return "".join(
        one.text for one in outputs if one.output_type == "stream" and one.name == stream
    )


def figures_in(outputs):
    return sum("image/png" in one.get("data", {}) for one in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_clean(path):
    """No outputs, no counts, no paths of anyone's machine; valid, and with words before code."""
    text = path.read_text()
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert notebook.cells[0].cell_type == "markdown"
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE), "belongs in jaxhash"
    assert json.loads(text)["metadata"]["kernelspec"]["name"] == "python3"
    assert not re.search(r"/(home|root|Users|work|tmp)/", text)


def test_all_notebooks_are_tried_here():
    assert set(NOTEBOOKS) == {BITS, KERNELS}


def test_bits_of_a_run_trained_on_the_spot(execute, tmp_path):
    outputs = execute(BITS, JAXHASH_NETWORK="dsh", JAXHASH_EPOCHS=0.1)
    said = text_of(outputs)
    assert "dlbhc, 48 bits, on dsh; p-all" in said
    assert "359 held-out items, 1,438 in the database" in said
    assert said.count(": mostly one for ") == 4
    assert figures_in(outputs) == 9
    assert (tmp_path / "runs" / "bit_distributions" / runs.WEIGHTS).is_file()


def test_bits_of_any_run(execute, tmp_path, rng):
    """Features with several classes each, asked under a protocol that leaves out the query."""
    labels = rng.random((60, 4)) < 0.4
    features = (rng.standard_normal((60, 5)) + labels.sum(axis=1)[:, None]).astype(np.float32)
    np.savez(tmp_path / "data.npz", features=features, labels=labels)
    config = Config(
        data=str(tmp_path / "data.npz"), method="dsh", bits=11, network="mhcln", protocol="fraction"
    )
    spec = planning.settle(config).spec
    variables = nets.init(spec.build(), jax.random.key(0), (1, *spec.item_shape))
    folder = runs.create(tmp_path / "given", config)
    models.save(models.Model(spec, jax.device_get(variables)), folder)

    outputs = execute(BITS, JAXHASH_RUN=folder)
    assert "dsh, 11 bits, on mhcln; fraction" in text_of(outputs)
    assert figures_in(outputs) == 8, "all but the images"
    assert not (tmp_path / "runs").exists()


def test_search_kernels(execute):
    outputs = execute(KERNELS, JAXHASH_CODES=20_000)
    said = text_of(outputs)
    assert "20,000 codes of 64 bits" in said
    assert "the same distances and ids as NumPy's" in said
    assert "the same for any number of threads" in said
    assert "a pool of the whole database gives the exhaustive answer" in said
    recalls = [float(value) for value in re.findall(r"recall ([\d.]+)", said)]
    assert len(recalls) == 4
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]
    aware = re.findall(r"tie-aware AP@1000 ([\d.]+)", said)
    assert len(aware) == 3
    assert len(set(aware)) == 1
