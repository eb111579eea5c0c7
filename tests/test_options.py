"""Every option acts, or is refused with the reason: a row for each, of runs and of scripts."""

import builtins
import contextlib
import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from test_steps import blobs

from jaxhash import (
    data,
    encoding,
    feature_files,
    image_index,
    index_files,
    models,
    option_checks,
    plots,
    processes,
    retrieval,
    runs,
    sharding,
)
from jaxhash.cli import inputs, shards
from jaxhash.cli.command import Command, parse
from jaxhash.config import Config, to_json
from jaxhash.data import Dataset
from jaxhash.duplicates import page
from jaxhash.evaluation import measures
from jaxhash.evaluation import run as evaluation_run
from jaxhash.exchange import npy, parquet, pgvector
from jaxhash.method import METHODS
from jaxhash.recipes import Recipe
from jaxhash.shards import records
from jaxhash.training import backbones, batches, loop, onnx_backbone, planning, run_data
from jaxhash.training.plan import Plan, check_resumed
from jaxhash.training.planning import settle
from jaxhash.updating import Changes

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SMALL: dict[str, Any] = {"recipe": "scratch", "bits": 8, "method": "dlbhc"}


def pictures(n: int = 60, channels: int = 3) -> Dataset:
    """Random images of 16 pixels in three classes."""
    items = np.random.default_rng(0).integers(0, 256, (n, 16, 16, channels), np.uint8)
    labels = (np.arange(n) % 3).astype(np.int32)
    parts = {"train": np.arange(n * 2 // 3), "test": np.arange(n * 2 // 3, n)}
    return Dataset("pictures", "images", items, labels, parts, ("a", "b", "c"))


def seen(plan: Plan) -> dict[str, Any]:
    """All that a plan hands on to the training, but for the configuration itself."""
    parts = ("train", "validation", "query", "database")
    left = {
        name: value
        for name, value in plan._asdict().items()
        if name not in ("config", "dataset", "split", "labels", "rows")
    }
    split = {name: getattr(plan.split, name).tolist() for name in parts}
    return left | split | {"rows": [plan.rows(step).tolist() for step in (0, 1)]}


# ---------------------------------------------------------------- what the plan shows

# field -> (what else is asked for, a value that changes the plan, what of it changes)
ACTS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "protocol": ({}, "fraction", "train"),
    "protocol_options": ({"protocol": "fraction"}, {"train_share": 0.5}, "train"),
    "validation": ({}, 0.4, "validation"),
    "method": ({}, "dsh", "method"),
    "network": ({"data": "pictures", "network": "dsh"}, "resnet-tiny", "spec"),
    "hidden": ({"data": "pictures", "network": "efficientnet-lite0"}, 7, "spec"),
    "finetune_blocks": ({"data": "pictures", "network": "efficientnet-lite0"}, 5, "trunk_rates"),
    "bits": ({}, 9, "spec"),
    "options": ({"method": "dsh"}, {"alpha": 0.5}, "options"),
    "recipe": ({}, "published", "recipe"),
    "epochs": ({}, 3.0, "steps"),
    "steps": ({}, 3, "steps"),
    "batch_size": ({}, 7, "rows"),
    "optimizer": ({"learning_rate": 0.01}, "adamw", "recipe"),
    "learning_rate": ({}, 0.02, "recipe"),
    "schedule": ({}, "cosine", "recipe"),
    "drops": ({"recipe": "published"}, (0.25, 0.75), "recipe"),
    "drop_factor": ({"recipe": "published"}, 0.3, "recipe"),
    "warmup": ({}, 0.3, "recipe"),
    "final_rate": ({}, 0.3, "recipe"),
    "momentum": ({}, 0.3, "recipe"),
    "beta2": ({"optimizer": "adam", "learning_rate": 0.01}, 0.9, "recipe"),
    "nesterov": ({}, False, "recipe"),
    "weight_decay": ({}, 0.0, "recipe"),
    "decay_all": ({}, True, "recipe"),
    "head_rate": ({}, 3.0, "recipe"),
    "latent_rate": ({}, 3.0, "recipe"),
    "classifier_rate": ({}, 3.0, "recipe"),
    "bias_rate": ({}, 3.0, "recipe"),
    "clip_norm": ({}, 0.0, "recipe"),
    "label_smoothing": ({}, 0.1, "options"),
    "batches": ({"batch_size": 15}, "balanced", "rows"),
    "start": ({}, "ssdh", "recipe"),
    "augment": ({"data": "pictures", "network": "dsh"}, "zoom", "recipe"),
    "mirror": ({"data": "pictures", "network": "dsh"}, True, "spec"),
    "shift": ({"data": "pictures", "network": "dsh"}, True, "spec"),
    "seed": ({}, 1, "rows"),
    "precision": ({}, "bfloat16", "spec"),
    "eval_every": ({}, 3.0, "eval_steps"),
    "log_every": ({}, 3, "log_steps"),
}


def planned(**fields: Any) -> Plan:
    config = Config(**SMALL | fields)
    return settle(config, pictures() if config.data == "pictures" else blobs())


@pytest.mark.parametrize("field", ACTS)
def test_what_is_asked_for_changes_the_plan(field: str) -> None:
    beside, value, changes = ACTS[field]
    before, after = seen(planned(**beside)), seen(planned(**beside | {field: value}))
    assert before[changes] != after[changes]


# What else a configuration can say, and the test below that shows what it does.
ELSEWHERE = {
    "data": "test_data_are_loaded_as_asked_for",
    "data_dir": "test_data_are_loaded_as_asked_for",
    "download": "test_data_are_loaded_as_asked_for",
    "max_undecodable": "test_data_are_loaded_as_asked_for",
    "image_size": "test_data_are_loaded_as_asked_for",
    "network_options": "test_options_of_a_network_are_handed_to_its_file",
    "resident": "test_where_the_images_live_is_as_asked_for",
    "average": "test_a_running_average_is_kept_where_it_is_asked_for",
    "tensorboard": "test_tensorboard_is_looked_for_before_anything_is_made",
    "weights": "test_weights_are_read_from_where_they_are_said_to_be",
}


def test_every_option_of_a_run_has_its_row() -> None:
    assert {*ACTS, *ELSEWHERE} == {field.name for field in dataclasses.fields(Config)}
    assert all(callable(globals()[name]) for name in ELSEWHERE.values())


def test_options_of_a_network_are_handed_to_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(onnx_backbone, "read", lambda *given, **options: asked.append(options))
    backbones.choose(
        Config(network="onnx:net.onnx", network_options={"side": 224, "mean": "1,2,3"})
    )
    assert asked == [{"side": 224, "mean": "1,2,3"}]


def test_every_number_of_a_recipe_can_be_asked_for() -> None:
    missing = {field.name for field in dataclasses.fields(Recipe)} - set(to_json(Config()))
    assert missing == set()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "cifar10"),
        ("data_dir", "elsewhere"),
        ("download", True),
        ("max_undecodable", 0.5),
        ("image_size", 24),
    ],
)
def test_data_are_loaded_as_asked_for(
    field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(data, "load", lambda *words, **options: asked.append((words, options)))
    run_data.load_data(Config(data="mnist"))
    run_data.load_data(Config(**{"data": "mnist"} | {field: value}))
    (before, after) = ({"data": words[0]} | options for words, options in asked)
    assert before[field] != after[field] == value


@pytest.mark.parametrize("items", [30, 83, 85])
def test_a_small_batch_of_triplets_is_a_multiple_of_three(tmp_path: Path, items: int) -> None:
    features = np.random.default_rng(0).normal(size=(items, 4)).astype(np.float32)
    np.savez(tmp_path / "few.npz", features=features, labels=np.arange(items) % 4)
    config = Config(data=str(tmp_path / "few.npz"), method="mhcln-paper", network="mhcln")
    plan = settle(config)
    assert plan.recipe.batch_size == len(plan.labels) // 3 * 3


def test_where_the_images_live_is_as_asked_for() -> None:
    mesh = sharding.mesh_over(8, jax.devices()[:1])
    assert batches.is_resident(planned(resident="device"), mesh)
    assert not batches.is_resident(planned(resident="stream"), mesh)


def test_a_running_average_is_kept_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    asked = []

    def initial_state(*_: Any, average: bool) -> None:
        asked.append(average)
        raise Enough

    monkeypatch.setattr(loop, "initial_variables", lambda *_: {"params": {}})
    monkeypatch.setattr(loop, "initial_state", initial_state)
    for average in (0.0, 0.9):
        with pytest.raises(Enough):
            loop.train(Config(**SMALL, average=average), None, dataset=blobs())
    assert asked == [False, True]


def test_tensorboard_is_looked_for_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(planning, "tensorboard_writer", lambda: asked.append(True))
    planned()
    assert not asked
    planned(tensorboard=True)
    assert asked


def test_weights_are_read_from_where_they_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model\.json in"):
        planned(weights=str(tmp_path))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "step"}, "schedule is 'step', and without drops .* give drops"),
        ({"drops": (0.5,)}, "drops is given, and the schedule is 'one-cycle'.* schedule step too"),
        ({"drop_factor": 0.5}, "drop_factor is given"),
        ({"schedule": "constant", "warmup": 0.1}, "warmup .*'constant'.*cosine or one-cycle too"),
        ({"schedule": "constant", "final_rate": 0.1}, "final_rate is given"),
        ({"optimizer": "adam"}, r"optimizer is 'adam'.*0\.1 is meant for sgd; give learning_rate"),
        ({"optimizer": "adamw"}, "give learning_rate too"),
        (
            {"optimizer": "sgd", "method": "mhcln", "recipe": "published"},
            "0.0001 is meant for adam; give learning_rate too",
        ),
        ({"beta2": 0.9}, "beta2 is given, and the optimizer is sgd"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov is given, and momentum is 0"),
        ({"weight_decay": 0.0, "decay_all": True}, "decay_all is given, and weight_decay is 0"),
        ({"method": "dsh", "classifier_rate": 2.0}, "classifier_rate .*'dsh' has no classifier"),
        ({"method": "dsh", "label_smoothing": 0.1}, "label_smoothing .*'dsh' has no target"),
        ({"label_smoothing": 0.1, "options": {"label_smoothing": 0.2}}, "given twice"),
        ({"image_size": 32}, "image_size is given, and blobs holds features"),
        ({"max_undecodable": 0.5}, "max_undecodable is for folders of image files"),
        ({"data": "digits", "data_dir": "x"}, "data_dir .*digits come with an installed package"),
        ({"data": "digits", "download": True}, "download is for datasets that are known by a name"),
        ({"data": str(SCRIPTS), "data_dir": "x"}, "scripts is a path; leave it out"),
        ({"start": "gausian"}, "start is 'gausian'; choose one of fan-in"),
        ({"options": {"multilabel": "binary"}}, "'multilabel' would do nothing; each item has one"),
        (
            {"method": "dhih", "options": {"margin": 0.3}},
            "'margin' would do nothing: it acts with reading 'cosine' alone",
        ),
        ({"method": "dhih-r3", "options": {"factor": 0.3}}, "'factor' would do nothing"),
        ({"method": "mhcln", "options": {"triplets": "rows"}}, "choose method mhcln-paper"),
        # What a loss refuses, it refuses before there is a folder.
        ({"method": "dhih", "options": {"reading": "nope"}}, "reading is 'nope'; choose one of"),
        ({"method": "talr", "options": {"bins": 0}}, "bins is 0; give a whole number at least 1"),
        ({"method": "talr", "options": {"bins": 2.5}}, "bins is 2.5; give a whole number"),
        ({"method": "dsh", "options": {"margin": "x"}}, "margin is 'x'; give a number above 0"),
        ({"method": "dsh", "options": {"margin": True}}, "margin is True; give a number"),
        ({"method": "dsh", "options": {"alpha": -1}}, "alpha is -1; give a number at least 0"),
        ({"method": "csq", "options": {"quantisation_weight": "x"}}, "quantisation_weight is 'x'"),
        ({"method": "dpn", "options": {"margin": 0}}, "margin is 0; give a number above 0"),
        ({"method": "greedyhash", "options": {"alpha": "x"}}, "alpha is 'x'"),
        ({"method": "hashnet", "options": {"growth": -1.0}}, "growth is -1"),
        ({"method": "mhcln", "options": {"push_weight": "x"}}, "push_weight is 'x'"),
        ({"method": "orthohash", "options": {"scale": 0}}, "scale is 0"),
        ({"method": "ssdh", "options": {"balance_weight": float("nan")}}, "balance_weight is nan"),
        ({"method": "talr", "options": {"gamma": float("inf")}}, "gamma is inf; give a number"),
        (
            {"options": {"label_smoothing": 1.0}},
            "label_smoothing is 1.0; .* at least 0 and below 1",
        ),
        ({"options": {"label_smoothing": "x"}}, "label_smoothing is 'x'"),
    ],
)
def test_what_would_do_nothing_or_harm_is_refused_before_a_folder_is_made(
    fields: dict, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        loop.train(Config(**SMALL | fields), folder, dataset=blobs())
    assert not folder.exists()


@pytest.mark.parametrize("name", METHODS)
def test_every_option_of_a_loss_has_its_type_checked(name: str) -> None:
    method = METHODS[name]
    for option in method.options():
        config = Config(**SMALL | {"method": name, "options": {option: object()}})
        with pytest.raises(ValueError, match=option):
            settle(config, blobs())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_rate": 2.0, "latent_rate": 1.0}, "head_rate and latent_rate both"),
        ({"head_rate": 2.0, "classifier_rate": 1.0}, "head_rate and classifier_rate both"),
        ({"max_undecodable": 2.0}, r"max_undecodable is 2\.0"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**fields)


def test_both_forms_of_alexnet_have_the_papers_recipe() -> None:
    assert planning.is_own("caffenet", METHODS["dlbhc"])
    assert planning.is_own("alexnet", METHODS["ssdh"])
    assert not planning.is_own("resnet", METHODS["dlbhc"])
    assert not planning.is_own("alexnet", METHODS["dsh"])


# ---------------------------------------------------------------- runs that go on


def begun(folder: Path, plan: Plan, **changes: Any) -> Path:
    numbers = plan.numbers()
    numbers["recipe"] |= changes
    return runs.create(folder, plan.config, plan=numbers)


def test_a_run_goes_on_under_the_plan_it_was_begun_with(tmp_path: Path) -> None:
    plan = planned(schedule="step", drops=(0.5,), method="dhih")
    check_resumed(begun(tmp_path / "same", plan), plan)
    check_resumed(begun(tmp_path / "start", plan, start="dlbhc"), plan)
    with pytest.raises(ValueError, match=r"another latent_rate \(10 then, 1\.0 now\); finish it"):
        check_resumed(begun(tmp_path / "other", plan, latent_rate=10), plan)
    other = plan._replace(config=dataclasses.replace(plan.config, bits=3))
    with pytest.raises(ValueError, match="another bits; resume it with the same options"):
        check_resumed(tmp_path / "same", other)
    with pytest.raises(ValueError, match=r"another steps \("):
        check_resumed(tmp_path / "same", plan._replace(steps=plan.steps + 1))


def test_an_older_run_goes_on_as_before_or_is_refused(tmp_path: Path) -> None:
    """Runs of version 0.1.0 have no plan.json, and a head_rate for both layers of the head."""
    for name, fields, recipe in (
        ("rate", {"head_rate": 5.0}, "scratch"),
        ("adam", {"optimizer": "adam"}, "scratch"),
        ("dsh", {"method": "dsh"}, "published"),
    ):
        folder = runs.create(tmp_path / name, Config(bits=8))
        old = {
            key: value for key, value in to_json(Config(method="dlbhc")).items() if key != "drops"
        }
        del old["latent_rate"], old["classifier_rate"], old["start"], old["decay_all"]
        runs.write_json(folder / runs.CONFIG, old | fields | {"recipe": recipe, "bits": 8})
        plan = settle(runs.load_config(folder), blobs(), resumed=True)
        check_resumed(folder, plan)
        head = 5 if name == "rate" else 1
        assert (plan.recipe.latent_rate, plan.recipe.classifier_rate) == (head, head)
    folder = runs.create(tmp_path / "dlbhc", Config(**SMALL | {"recipe": "published"}))
    plan = settle(runs.load_config(folder), blobs(), resumed=True)
    with pytest.raises(ValueError, match=r"version 0\.1\.0.*dlbhc had other numbers; finish"):
        check_resumed(folder, plan)


# ---------------------------------------------------------------- the commands


def command_of(name: str) -> Command:
    """The command of that name."""
    return importlib.import_module(f"jaxhash.cli.{name}").COMMAND


def call(name: str, *words: object) -> None:
    """Run a command with words on its command line; its errors are raised as they are."""
    command = command_of(name)
    command.act(parse(command, [str(word) for word in words]))


class Recorder:
    """Notes what it is called with, and returns what it was told to."""

    def __init__(self, value: Any = None) -> None:
        self.calls: list[Any] = []
        self.value = value

    def __call__(self, *words: Any, **options: Any) -> Any:
        plain = {key: one for key, one in options.items() if not callable(one)}
        self.calls.append((words, plain))
        return self.value


def stub_group(monkeypatch: pytest.MonkeyPatch) -> list:
    join = Recorder()
    monkeypatch.setattr(jax.distributed, "initialize", join)
    monkeypatch.setattr(processes, "_begin", lambda notices: None)  # it forks
    return join.calls


def stub_train(monkeypatch: pytest.MonkeyPatch) -> list:
    train = Recorder()
    monkeypatch.setattr(loop, "train", train)
    return [train.calls, stub_group(monkeypatch)]


def stub_encode(monkeypatch: pytest.MonkeyPatch) -> list:
    parts = {"train": np.arange(2), "test": np.arange(2, 5)}
    data = SimpleNamespace(
        items=np.zeros((5, 1)),
        parts=parts,
        name="data",
        skipped=(),
        passed={},
        paths=None,
        labels=None,
    )
    # What is asked of it is noted by `load`; its length is that of its items.
    data = type("Data", (), {**vars(data), "__len__": lambda self: 5})()
    load, model, write = Recorder(data), Recorder(SimpleNamespace(bits=8, run=None)), Recorder([])
    monkeypatch.setattr(models, "load", model)
    monkeypatch.setattr(retrieval, "load_items", load)
    columns, begun = Recorder([]), Recorder()
    monkeypatch.setattr(retrieval, "records", Recorder())
    monkeypatch.setattr(retrieval, "once_encoded", Recorder({}))
    monkeypatch.setattr(image_index, "take_columns", columns)

    def update(*words: Any, **options: Any) -> Changes:
        begun(*words, **options)
        Path("x.index").write_bytes(b"index")
        return Changes()

    codes = SimpleNamespace(bits=8, get=lambda ids: (None, None))
    index = type("Index", (), {"__len__": lambda self: 5, "update": update, "codes": codes})()
    monkeypatch.setattr(index_files, "open_or_begin", lambda *words: index)
    monkeypatch.setattr(feature_files, "write_features", write)

    def encode(*words: Any, **options: Any) -> list:
        Path(words[2]).write_bytes(b"index")
        rows = options.pop("rows")
        return write(*words[2:], rows=None if rows is None else rows.tolist(), **options)

    monkeypatch.setattr(encoding, "encode_to_index", encode)
    sharded = Recorder(None)
    monkeypatch.setattr(shards, "encode_shards", sharded)
    return [
        stub_group(monkeypatch),
        model.calls,
        sharded.calls,
        [(words[:1], options) for words, options in load.calls],
        load.calls,
        write.calls,
        columns.calls,
        begun.calls,
    ]


def stub_evaluate(monkeypatch: pytest.MonkeyPatch) -> list:
    evaluate = Recorder({})
    monkeypatch.setattr(evaluation_run, "evaluate", evaluate)
    monkeypatch.setattr(evaluation_run, "write_results", Recorder([]))
    monkeypatch.setattr(measures, "report", Recorder(""))
    return [evaluate.calls, stub_group(monkeypatch)]


def stub_query(monkeypatch: pytest.MonkeyPatch) -> list:
    spec = SimpleNamespace(takes="images", item_shape=(8, 8, 3), classes=())
    model = Recorder(SimpleNamespace(spec=spec))
    index = type("Index", (), {"__len__": lambda self: 1, "ids": np.arange(1)})()
    index.get = lambda ids: (None, 1)
    nothing = {"class_names": list, "values": list, "select": lambda where, ids: where}
    opened = Recorder((index, SimpleNamespace(**nothing)))
    loaded, answer, drawn, printed = (Recorder() for _ in range(4))

    def decode(pictures: list, side: int, channels: int) -> Any:
        loaded(pictures)
        return pictures, np.zeros((len(pictures), 8, 8, 3), np.uint8), []

    def ask(model: Any, index: Any, images: Any, k: int, **options: Any) -> Any:
        answer(k, **options)
        return np.zeros((len(images), 1), np.int32), np.full((len(images), 1), -1)

    monkeypatch.setattr(models, "load", model)
    monkeypatch.setattr(records, "open_any", opened)
    monkeypatch.setattr(inputs, "decode", decode)
    monkeypatch.setattr(retrieval, "query", ask)
    monkeypatch.setattr(retrieval, "gallery", Recorder())
    monkeypatch.setattr(plots, "save", drawn)
    monkeypatch.setattr(builtins, "print", printed)
    return [one.calls for one in (model, opened, loaded, answer, drawn, printed)]


def stub_serve(monkeypatch: pytest.MonkeyPatch) -> list:
    server = pytest.importorskip("jaxhash.serve.server", reason="needs the extra `serve`")
    service = importlib.import_module("jaxhash.serve.service")
    made = Recorder(SimpleNamespace(snapshot=[], model=None, warm=lambda: None))
    run = Recorder()
    monkeypatch.setattr(service, "Service", made)
    monkeypatch.setattr(service, "described", lambda model: "")
    on_ray = importlib.import_module("jaxhash.serve.on_ray")
    asked = Recorder(contextlib.nullcontext())
    monkeypatch.setattr(on_ray, "asking", asked)
    monkeypatch.setattr(server, "run", run)
    return [made.calls, asked.calls, [options for _, options in run.calls], run.calls]


class Opened:
    """Stands for an index of five items."""

    bits = 8

    def __len__(self) -> int:
        return 5

    def __repr__(self) -> str:
        return "index"


def stub_duplicates(monkeypatch: pytest.MonkeyPatch) -> list:
    found, written = Recorder([]), Recorder()
    spec = SimpleNamespace(takes="images", mirror=False)
    index = type(
        "Index", (Opened,), {"model": SimpleNamespace(spec=spec), "duplicates": staticmethod(found)}
    )
    opened = Recorder(index())
    monkeypatch.setattr(index_files, "open_index", opened)
    monkeypatch.setattr(page, "write", written)
    printed = Recorder()
    monkeypatch.setattr(builtins, "print", printed)
    return [opened.calls, found.calls, written.calls, printed.calls]


def stub_export(monkeypatch: pytest.MonkeyPatch) -> list:
    model = Recorder(SimpleNamespace(spec=SimpleNamespace(classes="c")))
    opened = Recorder((Opened(), "records"))
    copied, written = Recorder(5), Recorder()

    def write(index: Any, path: Path, **options: Any) -> None:
        written(path, **options)
        path.write_bytes(b"parquet")

    monkeypatch.setattr(records, "open_any", opened)
    monkeypatch.setattr(models, "load", model)
    monkeypatch.setattr(retrieval, "check_made_by", Recorder())
    monkeypatch.setattr(pgvector, "write", copied)
    monkeypatch.setattr(pgvector, "queries", Recorder([]))
    monkeypatch.setattr(parquet, "write", write)
    return [opened.calls, model.calls, copied.calls, written.calls]


def stub_import(monkeypatch: pytest.MonkeyPatch) -> list:
    made = Recorder(Opened())

    def to_index(path: Path, out: Path, **options: Any) -> Any:
        out.write_bytes(b"index")
        return made(path, out, **options)

    monkeypatch.setattr(npy, "to_index", to_index)
    return [made.calls]


HERE = Path(__file__)
GROUP = {
    "coordinator": ["--coordinator", "auto"],
    "processes": ["--coordinator", "a:1", "--processes", 3, "--process", 1],
    "process": ["--coordinator", "a:1", "--processes", 3, "--process", 2],
}
# command -> (what it is given at least, option -> words that change what it does)
COMMAND_OPTIONS: dict[str, tuple[list[Any], dict[str, list[Any]]]] = {
    "train": (
        ["--run", "none"],
        {
            "config": ["--bits", 12],
            "run": ["--run", "other"],
            "resume": ["--resume", "--data", "digits"],
            "overwrite": ["--overwrite"],
            "profile_steps": ["--profile-steps", 3],
            "devices": ["--devices", 1],
        }
        | GROUP,
    ),
    "encode": (
        ["--run", "none", "--data", "mnist", "--out", "x.index"],
        {
            "run": ["--run", "other"],
            "data": ["--data", "cifar10"],
            "out": ["--out", "y.index"],
            "data_dir": ["--data-dir", "elsewhere"],
            "part": ["--part", "test"],
            "features": ["--features", "none"],
            "batch_size": ["--batch-size", 3],
            "max_undecodable": ["--max-undecodable", 0.5],
            "overwrite": ["--overwrite"],
            "shards": ["--shards", 3],
            "workers": ["--shards", 3, "--workers", 2],
            "update": ["--update"],
            "columns": ["--columns", HERE],
            "ray": ["--shards", 3, "--ray", "local"],
            "ray_resources": ["--shards", 3, "--ray", "local", "--ray-resources", "GPU", 1],
        }
        | GROUP,
    ),
    "evaluate": (
        ["--run", "none"],
        {
            "run": ["--run", "other"],
            "protocol": ["--protocol", "p-all"],
            "protocol_options": ["--protocol-options", "train_share", 0.5],
            "data_dir": ["--data-dir", "elsewhere"],
            "top": ["--top", 5],
            "pool": ["--pool", 5],
            "batch_size": ["--batch-size", 5],
        }
        | GROUP,
    ),
    "query": (
        ["--run", "none", "--index", "x.index", HERE],
        {
            "images": [HERE.parent / "conftest.py"],
            "run": ["--run", "other"],
            "index": ["--index", "y.index"],
            "k": ["-k", 3],
            "pool": ["--pool", 0],
            "radius": ["--radius", 2],
            "where": ["--where", "year = 2020"],
            "recall": ["--recall", 0.95],
            "root": ["--root", "."],
            "json": ["--json"],
            "csv": ["--csv"],
            "gallery": ["--gallery", "out.png"],
            "verify": ["--verify"],
        },
    ),
    "serve": (
        ["--run", "none", "--index", "x.index"],
        {
            "run": ["--run", "other"],
            "index": ["--index", "y.index"],
            "host": ["--host", "localhost"],
            "port": ["--port", 8001],
            "writable": ["--writable"],
            "images": ["--images", HERE.parent],
            "max_upload": ["--max-upload", 1],
            "max_megapixels": ["--max-megapixels", 1],
            "timeout": ["--timeout", 1],
            "waiting": ["--waiting", 1],
            "ray": ["--ray", "auto"],
            "parts": ["--ray", "auto", "--parts", 3],
            "replicas": ["--ray", "auto", "--parts", 3, "--replicas", 4],
            "threads": ["--ray", "auto", "--parts", 3, "--threads", 2],
        },
    ),
    "duplicates": (
        ["--run", "none", "--index", "x.index"],
        {
            "run": ["--run", "other"],
            "index": ["--index", "y.index"],
            "html": ["--html", "out.html"],
            "json": ["--json"],
            "similarity": ["--similarity", 0.5],
            "radius": ["--radius", 2],
            "mirrored": ["--mirrored"],
            "root": ["--root", HERE.parent],
        },
    ),
    "export": (
        ["--index", "x.index", "--to", "pgvector", "--table", "t"],
        {
            "index": ["--index", "y.index"],
            "to": ["--to", "parquet", "--table", "None", "--out", "o.parquet"],
            "out": ["--to", "parquet", "--table", "None", "--out", "p.parquet"],
            "table": ["--table", "s.t"],
            "dsn": ["--dsn", "host=elsewhere"],
            "hnsw": ["--hnsw"],
            "append": ["--append"],
            "overwrite": ["--overwrite"],
            "run": ["--run", "none"],
        },
    ),
    "import": (
        ["codes.npy", "--out", "x.index"],
        {
            "file": ["other.npy"],
            "out": ["--out", "y.index"],
            "bits": ["--bits", 7],
            "features": ["--features", "f.npy"],
            "ids": ["--ids", "i.npy"],
            "overwrite": ["--overwrite"],
        },
    ),
}
CASES = [(name, option) for name, (_, table) in COMMAND_OPTIONS.items() for option in table]
STUBS = {
    "train": stub_train,
    "encode": stub_encode,
    "evaluate": stub_evaluate,
    "query": stub_query,
    "serve": stub_serve,
    "duplicates": stub_duplicates,
    "export": stub_export,
    "import": stub_import,
}


@pytest.mark.parametrize("name", COMMAND_OPTIONS)
def test_every_option_of_a_command_has_its_row(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(command_of(name).options)}
    if "group" in fields:
        fields = fields - {"group"} | set(GROUP)
    assert set(COMMAND_OPTIONS[name][1]) == fields


@pytest.mark.parametrize(("name", "option"), CASES)
def test_an_option_of_a_command_changes_what_it_does(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words, table = COMMAND_OPTIONS[name]
    for file in ("codes.npy", "other.npy"):
        (tmp_path / file).touch()
    if name in ("encode", "import") and option == "overwrite":
        STUBS[name](monkeypatch)
        (tmp_path / "x.index").touch()
        with pytest.raises(FileExistsError, match=r"x\.index exists"):
            call(name, *words)
        call(name, *words, *table[option])
        assert (tmp_path / "x.index").read_bytes() == b"index"
        return
    done = []
    for given in ([], table[option]):
        calls_made = STUBS[name](monkeypatch)
        (tmp_path / "x.index").unlink(missing_ok=True)
        if given and option == "file":  # there can be but one: it takes the other's place
            words = words[1:]
        call(name, *words, *given)
        done.append(repr(calls_made))
    assert done[0] != done[1]


def test_a_backbone_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    for words in (["--network", "dsh"], ["--backbone", "dsh"], ["--backbone=dsh"]):
        calls_made = stub_train(monkeypatch)
        call("train", *COMMAND_OPTIONS["train"][0], *words)
        done.append(repr(calls_made))
    assert "dsh" in done[0]
    assert done[0] == done[1] == done[2]


@pytest.mark.parametrize(
    ("name", "words", "error", "message"),
    [
        ("train", ["--resume", "--overwrite", "--data", "x"], ValueError, "keep one"),
        ("train", ["--coordinator", "auto", "--processes", 2], ValueError, "leave them out"),
        ("train", ["--coordinator", "auto", "--process", 0], ValueError, "leave them out"),
        ("train", ["--process", 0], ValueError, "need the coordinator"),
        ("evaluate", ["--process", 0], ValueError, "need the coordinator"),
        (
            "encode",
            ["--update", "--coordinator", "auto"],
            ValueError,
            "--update is for one process",
        ),
        ("encode", ["--ray", "a", "--coordinator", "auto"], ValueError, "--ray is for one process"),
        ("encode", ["--out", "x.npz", "--features", "none"], ValueError, "--features is for"),
        ("encode", ["--out", "x.npz", "--features", "float16"], ValueError, "--features is for"),
        ("encode", ["--out", "x.npz", "--part", "test"], ValueError, "--part is for an index"),
        ("encode", ["--out", "x.npz", "--update"], ValueError, "--update is for an index"),
        ("encode", ["--out", "x.npz", "--columns", HERE], ValueError, "--columns is for an index"),
        ("encode", ["--update", "--part", "test"], ValueError, "leave out --part"),
        ("encode", ["--update", "--overwrite"], ValueError, "leave out --overwrite"),
        ("encode", ["--update", "--data-dir", "."], ValueError, "leave out --data-dir"),
        ("encode", ["--columns", "no.csv"], FileNotFoundError, "no such file of columns"),
        ("encode", ["--batch-size", 0], ValueError, "--batch-size is 0"),
        ("query", ["--pool", 5], ValueError, "--pool is 5 and -k 10"),
        ("query", ["--json", "--csv"], ValueError, "give one"),
        ("query", ["--root", "nowhere"], FileNotFoundError, "nowhere: no such folder"),
        ("query", ["--pool", -1], ValueError, "--pool is -1"),
        ("serve", ["--port", 0], ValueError, "--port is 0; give 1 to 65535"),
        ("serve", ["--timeout", 0], ValueError, "--timeout is 0.0; give a number above 0"),
        ("serve", ["--images", "none"], FileNotFoundError, "no such folder"),
        ("serve", ["--parts", 2], ValueError, "--parts is for an index in parts; give --ray too"),
        ("serve", ["--ray", "auto", "--threads", 2], ValueError, "give --parts too"),
        ("serve", ["--ray", "auto", "--parts", 0], ValueError, "--parts is 0; give at least 1"),
        ("serve", ["--ray", "local"], ValueError, "no parts yet; give --parts too"),
        ("serve", ["--ray", "auto", "--writable"], ValueError, "leave --ray out"),
        ("query", ["--radius", -1], ValueError, "--radius is -1"),
        ("query", ["--recall", 1.5], ValueError, "--recall is 1.5"),
        ("query", ["--recall", 0.9, "--where", "x = 1"], ValueError, "combine with --where"),
        ("query", ["--recall", 0.9, "--radius", 2], ValueError, "combine with --radius"),
        ("query", ["--gallery", "out.jpg"], ValueError, "give the name of a .png file"),
        ("query", ["--gallery", "no/out.png"], FileNotFoundError, "no such folder"),
    ],
)
def test_a_command_refuses_what_would_do_nothing(
    name: str, words: list, error: type, message: str, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    STUBS[name](monkeypatch)
    with pytest.raises(error, match=message):
        call(name, *COMMAND_OPTIONS[name][0], *words)
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_named_datasets_is_refused_where_none_is_named(tmp_path: Path) -> None:
    model = SimpleNamespace(spec=SimpleNamespace(takes="images", item_shape=(8, 8, 1)))
    with pytest.raises(ValueError, match="data_dir is for datasets that are known by a name"):
        retrieval.load_items("digits", model, data_dir="x")
    with pytest.raises(ValueError, match="max_undecodable is for folders of image files"):
        retrieval.load_items("digits", model, max_undecodable=0.5)
    option_checks.check_place("cifar10", data_dir="x", download=True)


def test_the_corrected_command_works_at_once(tmp_path: Path) -> None:
    """A mistake leaves no folder that would have to be removed or overwritten."""
    folder, data = tmp_path / "run", tmp_path / "blobs.npz"
    np.savez(data, features=blobs().items, labels=blobs().labels)
    for method, words in (
        ("dhih", ["reading", "nope"]),
        ("talr", ["bins", 0]),
        ("dsh", ["margin", "x"]),
    ):
        given = ["--data", data, "--method", method, "--run", folder, "--options", *words]
        with pytest.raises(ValueError, match=f"{words[0]} is "):
            call("train", *given)
        assert not folder.exists()
    runs.check_free(folder)
