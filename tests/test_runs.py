"""Configurations, run directories and exported models: what is written is what is read."""

import ast
import dataclasses
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxhash import config as configuration
from jaxhash import models, nets, runs
from jaxhash.config import Config, from_json, to_json
from jaxhash.environment import environment
from jaxhash.models import Model
from jaxhash.recipes import FROM_SCRATCH, Recipe
from jaxhash.spec import ModelSpec
from jaxhash.trees import flatten


def small_model(seed: int = 0, **changes: object) -> Model:
    described = {
        "network": "mhcln",
        "method": "dlbhc",
        "bits": 11,
        "classes": ("cat", "dog"),
        "item_shape": (6,),
        "mean": (),
        "std": (),
        "activation": "sigmoid",
        "classifier": "bias",
        "threshold": 0.5,
        "precision": "float32",
    }
    spec = ModelSpec(**described | changes)
    variables = nets.init(spec.build(), jax.random.key(seed), (1, *spec.item_shape))
    return Model(spec, jax.device_get(variables))


# ---------------------------------------------------------------- configurations


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Config,
        bits=st.integers(1, 1024),
        data=st.text(),
        data_dir=st.none() | st.text(),
        options=st.dictionaries(st.text(), st.booleans() | st.integers() | st.text()),
        learning_rate=st.none() | st.floats(1e-9, 1e3),
        drops=st.none() | st.lists(st.floats(0, 1), max_size=3).map(tuple),
        precision=st.sampled_from(["float32", "bfloat16"]),
        validation=st.floats(0, 0.99),
    )
)
def test_a_configuration_survives_json(config: Config) -> None:
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bist": 3}, r"unknown field 'bist' \(did you mean bits"),
        ({"bits": "48"}, "bits = '48'; it has to be int"),
        ({"bits": True}, "bits = True"),
        ({"bits": 0}, "bits is 0; give 1 to 1024"),
        ({"bits": 1025}, "give 1 to 1024"),
        ({"precision": "half"}, "one of float32, bfloat16"),
        ({"epochs": 2, "steps": 3}, "keep one"),
        ({"validation": 1.0}, r"share in \[0, 1\)"),
        ({"average": 1.0}, "decay"),
        ({"log_every": 0}, "log_every is 0"),
        ({"eval_every": 0.0}, "eval_every is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"options": {"alpha": [1]}}, "options = "),
        ({"drops": 0.5}, r"drops = 0\.5; it has to be a list of float or null"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(values)


def test_every_field_is_explained() -> None:
    """The command line shows the text below each field."""
    tree = ast.parse(Path(configuration.__file__).read_text())
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config"
    )
    explained = [
        node.target.id
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    ]
    assert explained == [field.name for field in dataclasses.fields(Config)]


def test_given_numbers_take_the_place_of_the_recipes() -> None:
    config = Config(epochs=3, batch_size=7, learning_rate=0.5, clip_norm=2.0, augment="flip")
    recipe = config.recipe_over(Recipe(steps=99, momentum=0.4, augment="crop"))
    assert (recipe.epochs, recipe.steps, recipe.batch_size) == (3, None, 7)
    assert (recipe.learning_rate, recipe.clip_norm, recipe.augment) == (0.5, 2.0, "flip")
    assert recipe.momentum == 0.4
    assert Config(steps=5).recipe_over(FROM_SCRATCH).total_steps(1000) == 5
    assert Config().recipe_over(FROM_SCRATCH) == FROM_SCRATCH
    with pytest.raises(ValueError, match="learning_rate"):
        Config(learning_rate=-1.0).recipe_over(FROM_SCRATCH)


# ---------------------------------------------------------------- the directory


def test_a_run_is_not_overwritten_without_being_told(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runs.create(folder, Config(bits=12))
    (folder / "model.json").write_text("old")
    with pytest.raises(FileExistsError, match=r"already holds a run.*resume=True.*overwrite=True"):
        runs.create(folder, Config(bits=24))
    assert runs.load_config(folder).bits == 12
    runs.create(folder, Config(bits=24), overwrite=True)
    assert runs.load_config(folder).bits == 24
    assert not (folder / "model.json").exists()


def test_what_is_no_run_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not a run directory"):
            runs.create(tmp_path, Config(), overwrite=overwrite)
    with pytest.raises(FileExistsError, match="not a run directory"):
        runs.create(tmp_path / "thesis.txt", Config(), overwrite=True)
    with pytest.raises(NotADirectoryError, match=r"thesis\.txt is a file"):
        runs.check_free(tmp_path / "thesis.txt" / "run" / "1")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(FileNotFoundError, match="no run in"):
        runs.load_config(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / runs.CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        runs.load_config(tmp_path)
    (tmp_path / runs.CONFIG).write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        runs.load_config(tmp_path)
    (tmp_path / runs.CONFIG).write_text('{"colour": "red"}')
    with pytest.raises(ValueError, match=r"config\.json has an unknown field 'colour'"):
        runs.load_config(tmp_path)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="float"):
        runs.write_json(path, {"a": float("nan")})
    assert runs.read_json(path) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["numbers.json"]


def test_skipped_images_are_listed(tmp_path: Path) -> None:
    runs.write_skipped(tmp_path, [("a.jpg", "truncated"), ("b.png", "too large")])
    assert (tmp_path / runs.SKIPPED).read_text() == "a.jpg\ttruncated\nb.png\ttoo large\n"
    runs.write_skipped(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_the_environment_names_versions_and_devices() -> None:
    found = environment()
    assert found["versions"]["jax"] == jax.__version__
    assert len(found["devices"]) == jax.device_count()
    json.dumps(found)


# ---------------------------------------------------------------- exported models


def test_a_model_survives_its_files(tmp_path: Path) -> None:
    model = small_model()
    models.save(model, tmp_path)
    loaded = models.load(tmp_path)
    assert loaded.spec == model.spec
    ours, theirs = (flatten(one.variables) for one in (model, loaded))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert models.fingerprint(loaded) == models.fingerprint(model)
    assert models.fingerprint(small_model(seed=1)) != models.fingerprint(model)
    assert models.fingerprint(small_model(threshold=0.4)) != models.fingerprint(model)


def test_arrays_that_are_not_contiguous_are_written_right(tmp_path: Path) -> None:
    model = small_model()
    kernel = model.variables["params"]["head"]["latent"]["kernel"]
    turned = np.asfortranarray(kernel)
    assert not turned.flags.c_contiguous
    model.variables["params"]["head"]["latent"]["kernel"] = turned
    models.save(model, tmp_path)
    loaded = models.load(tmp_path).variables["params"]["head"]["latent"]["kernel"]
    np.testing.assert_array_equal(loaded, kernel)


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder of a finished run"):
        models.load(tmp_path)
    runs.create(tmp_path / "run", Config())
    with pytest.raises(FileNotFoundError, match=r"has not finished.*resume=True"):
        models.load(tmp_path / "run")
    models.save(small_model(), tmp_path)
    described = json.loads((tmp_path / runs.MODEL).read_text())
    for change, message in (
        ({"precision": "float3"}, "names the precision 'float3', which is not one of float32"),
        ({"precision": False}, "precision is False, and should be str"),
        ({"activation": "sigmoie"}, "activation"),
        ({"classifier": "nine"}, "classifier"),
        ({"bits": 0}, "bits is 0"),
        ({"bits": "8"}, "bits is '8', and should be int"),
        ({"threshold": "0.5"}, "threshold is '0.5', and should be float"),
        ({"item_shape": [4, "4"]}, r"item_shape is .*, and should be tuple\[int, \.\.\.\]"),
        ({"item_shape": [-4]}, "does not describe a model"),
        ({"mean": "0.5"}, "mean is '0.5'"),
        ({"hidden": 1.5}, r"hidden is 1.5, and should be int \| None"),
        ({"network": {}}, "network is {}"),
        ({"bits": 12}, "does not fit"),
        ({"network": "vgg"}, "names the network 'vgg'"),
        ({"format": 99}, "not of format"),
        ({"colour": "red"}, "does not describe a model"),
    ):
        (tmp_path / runs.MODEL).write_text(json.dumps(described | change))
        with pytest.raises(ValueError, match=message) as refused:
            models.load(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert "export" in str(refused.value), "what to do"
    (tmp_path / runs.MODEL).write_text(json.dumps(described))
    weights = (tmp_path / runs.WEIGHTS).read_bytes()
    (tmp_path / runs.WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"is damaged: .*; copy both files again"):
        models.load(tmp_path)
    (tmp_path / runs.MODEL).write_text("{")
    with pytest.raises(ValueError, match=r"is not JSON: .*; copy both files again"):
        models.load(tmp_path)
