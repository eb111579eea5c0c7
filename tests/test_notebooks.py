"""The notebooks run from top to bottom, on little data, and are kept without outputs."""

import json
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


# All of them run in one process; this comes before each, and leaves nothing of the others.
BEFORE = """%reset -f
import os
for _name in [_name for _name in os.environ if _name.startswith("JAXHASH_")]:
    del os.environ[_name]
os.environ |= {settings}
os.chdir({folder!r})
del os
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder for each notebook, and its outputs, cell by cell, from beside an empty `runs`."""
    folder = tmp_path_factory.mktemp("ran")
    asked = {
        "on the spot": (BITS, {"JAXHASH_NETWORK": "dsh", "JAXHASH_EPOCHS": "0.1"}),
        "any run": (BITS, {"JAXHASH_RUN": str(any_run(folder))}),
        "kernels": (KERNELS, {"JAXHASH_CODES": "20000"}),
    }
    whole = nbformat.v4.new_notebook()
    for name, (path, settings) in asked.items():
        (folder / name / "notebooks").mkdir(parents=True)
        before = BEFORE.format(settings=settings, folder=str(folder / name / "notebooks"))
        whole.cells.append(nbformat.v4.new_code_cell(before))
        whole.cells.extend(nbformat.read(path, 4).cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PYTHONWARNINGS", "default")
        # The times are against hanging only: a busy machine may take its.
        NotebookClient(whole, timeout=900, startup_timeout=300, kernel_name="python3").execute()
    outputs, name = {}, iter(asked)
    for cell in whole.cells:
        if cell.source.startswith("%reset"):
            of_one = outputs.setdefault(next(name), [])
        of_one.extend(cell.get("outputs", []))
    for ours in (str(ROOT / "jaxhash"), str(ROOT / "search"), "ipykernel_"):
        for each in outputs.values():
            assert ours not in text_of(each, "stderr"), "a warning of our own code"
    return folder, outputs


def any_run(folder):
    """A run on features with several classes each, under a protocol that leaves out the query."""
    rng = np.random.default_rng(2016)
    labels = rng.random((60, 4)) < 0.4
    features = (rng.standard_normal((60, 5)) + labels.sum(axis=1)[:, None]).astype(np.float32)
    np.savez(folder / "data.npz", features=features, labels=labels)
    config = Config(
        data=str(folder / "data.npz"), method="dsh", bits=11, network="mhcln", protocol="fraction"
    )
    spec = planning.settle(config).spec
    variables = nets.init(spec.build(), jax.random.key(0), (1, *spec.item_shape))
    given = runs.create(folder / "given", config)
    models.save(models.Model(spec, jax.device_get(variables)), given)
    return given


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


def test_bits_of_a_run_trained_on_the_spot(ran):
    folder, outputs = ran
    said = text_of(outputs["on the spot"])
    assert "dlbhc, 48 bits, on dsh; p-all" in said
    assert "359 held-out items, 1,438 in the database" in said
    assert said.count(": mostly one for ") == 4
    assert figures_in(outputs["on the spot"]) == 9
    assert (folder / "on the spot" / "runs" / "bit_distributions" / runs.WEIGHTS).is_file()


def test_bits_of_any_run(ran):
    folder, outputs = ran
    assert "dsh, 11 bits, on mhcln; fraction" in text_of(outputs["any run"])
    assert figures_in(outputs["any run"]) == 8, "all but the images"
    assert not (folder / "any run" / "runs").exists()


def test_search_kernels(ran):
    said = text_of(ran[1]["kernels"])
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
