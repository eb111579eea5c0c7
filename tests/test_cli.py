"""The commands as a user meets them: what they print, leave and refuse."""

import importlib
import json
import os
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from PIL import Image

from jaxhash import cli, runs
from jaxhash.cli import options
from jaxhash.cli.command import parse
from jaxhash.config import Config
from jaxhash.data import load as load_dataset
from jaxhash.nets import NETWORKS
from jaxhash.training import loop

ROOT = Path(__file__).resolve().parent.parent
NAMES = tuple(cli.COMMANDS)
SCRIPTS = ("train", "evaluate", "encode", "query", "demo")
"""Commands that were scripts before they were commands."""


@pytest.fixture
def script():
    """A function that runs a command with the given words on its command line."""

    def call(name: str, *words: object) -> None:
        cli.main([name, *map(str, words)])

    return call


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on the digits, long enough to be better than chance and no longer."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = Config(
        network="small",
        recipe="scratch",
        bits=20,
        batch_size=64,
        epochs=4,
        optimizer="adam",
        learning_rate=0.003,
        augment="none",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small", small.NETWORK)
        loop.train(config, folder, devices=jax.devices()[:1])
        yield folder


def test_help_into_a_pipe_that_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "jaxhash", "query", "--help"]
    with open(writing, "wb") as pipe:
        ended = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(
    name: str, script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    command = importlib.import_module(f"jaxhash.cli.{name}").COMMAND
    there = options.names(command.options)
    assert set(command.common) <= set(there)
    script(name, "--help")
    short = capsys.readouterr().out
    assert short.count("\n") <= 40  # one screen
    assert f"    jaxhash {name}" in short  # an example
    assert any(word in short for word in ("second", "minute"))
    assert any(option in short for option in ("--run", "--out"))
    script(name, "--help-all")
    everything = capsys.readouterr().out
    for option in there:
        if option != command.positional:
            assert f"  -{'-' * (len(option) > 1)}{option.replace('_', '-')}" in everything
    assert "--print-config" in everything
    if name == "train":
        assert "Length of the code, 1 to 1024" in everything
        assert "--nesterov True|False " in everything
        assert max(map(len, everything.splitlines())) <= 100
        # Each option has its group, and one only.
        grouped = [option for group in command.groups.values() for option in group]
        assert sorted(grouped) == sorted(there)


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    listed = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"  {name} " in listed
    cli.main([])
    assert capsys.readouterr().out == listed
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("jaxhash ")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["trian"])
    assert stopped.value.code == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_the_command_comes_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["jaxhash"].partition(":")
    assert getattr(importlib.import_module(module), function) is cli.main


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_old_scripts_are_doors_to_the_commands(name: str, capsys, monkeypatch) -> None:
    path = ROOT / "scripts" / f"{name}.py"
    for entry in (path, "jaxhash"):
        words = [str(entry), *([] if entry == path else [name]), "--help"]
        monkeypatch.setattr(sys, "argv", words)
        if entry == path:
            runpy.run_path(str(path), run_name="__main__")
        else:
            runpy.run_module("jaxhash", run_name="__main__", alter_sys=True)
        assert capsys.readouterr().out.startswith(f"usage: jaxhash {name} ")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("train", ["--bits", "0"], "jaxhash train: bits is 0; give 1 to 1024"),
        ("train", ["--method", "dlhbc"], "did you mean dlbhc"),
        ("train", ["--data", "no/such/folder"], "no/such/folder"),
        ("train", ["--coordinator", "localhost:1"], "needs processes and process too"),
        ("train", ["--processes", "2"], "need the coordinator too"),
        ("train", ["--coordinator", "localhost"], "give host:port"),
        (
            "train",
            ["--coordinator", "localhost:1", "--processes", "2", "--process", "5"],
            "process is 5; give 0 to 1",
        ),
        ("train", ["--devices", "99"], "devices is 99; there are 8"),
        ("train", ["--profile-steps", "-1"], "train: --profile-steps is -1"),
        ("train", ["--resume", "--run", "none"], "no run to resume in none"),
        ("encode", ["--run", "none", "--data", "digits", "--out", "x.index"], "no model.json in"),
        (
            "encode",
            ["--run", "none", "--data", "digits", "--out", "no/x.npz"],
            "no such folder to write x.npz into",
        ),
        ("evaluate", ["--run", "none", "--pool", "0"], "pool is 0"),
        ("evaluate", ["--run", "none"], "no model.json in none"),
        ("query", ["--run", "none", "--index", "x.index", __file__], "no model.json in none"),
        ("query", ["--run", "none", "--index", "x.index", __file__, "-k", "0"], "-k is 0"),
        ("query", ["--run", "none", "--index", "x.index", "a.jpg"], "a.jpg: no such image file"),
        ("query", ["--run", "none", "--index", "x.index"], "give at least one image file"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    name: str, words: list[str], message: str, script, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        script(name, *words)
    assert message in str(stopped.value.code)
    assert "Traceback" not in str(stopped.value.code)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("evaluate", []),
        ("encode", ["--data", "digits", "--out", "x.index"]),
        ("query", ["--index", "x.index", __file__]),
    ],
)
def test_an_unfinished_run_names_the_command_that_goes_on(
    name: str, words: list[str], script, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs.create("begun", Config(bits=12))
    with pytest.raises(SystemExit) as stopped:
        script(name, "--run", "begun", *words)
    assert "go on with it (jaxhash train --resume) first" in str(stopped.value.code)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("train", ["--bist", "48"], "--bits"),
        ("train", ["--precision", "half"], "bfloat16"),
        ("train", ["--bits", "many"], "--bits"),
        ("encode", [], "--run"),
    ],
)
def test_a_wrong_option_names_the_right_ones(
    name: str, words: list[str], message: str, script, capsys
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script(name, *words)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_a_traceback_is_shown_where_it_is_asked_for(script, monkeypatch) -> None:
    monkeypatch.setenv("JAXHASH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bits is 0"):
        script("train", "--bits", "0")


def test_training_from_the_command_line_and_on(script, tmp_path: Path, capsys) -> None:
    np.savez(
        tmp_path / "blobs.npz",
        train_features=np.eye(4, 6, dtype=np.float32)[np.arange(80) % 4],
        train_labels=np.arange(80) % 4,
        test_features=np.eye(4, 6, dtype=np.float32)[np.arange(12) % 4],
        test_labels=np.arange(12) % 4,
    )
    folder = tmp_path / "run"
    words = ["--data", tmp_path / "blobs.npz", "--method", "dlbhc", "--bits", 12, "--run", folder]
    script("train", *words, "--recipe", "scratch", "--steps", 4, "--batch-size", 8)
    printed = capsys.readouterr()
    assert "dlbhc, 12 bits, on mhcln" in printed.out
    assert "validation mAP" in printed.err
    assert f"jaxhash evaluate --run {folder}" in printed.out
    with pytest.raises(SystemExit) as stopped:
        script("train", *words)
    assert "already holds a run" in str(stopped.value.code)
    # A resumed run takes its options from its folder, and refuses others.
    script("train", "--resume", "--run", folder)
    with pytest.raises(SystemExit) as stopped:
        script("train", "--resume", "--run", folder, "--bits", 16)
    assert "another bits" in str(stopped.value.code)
    script("train", *words, "--overwrite", "--recipe", "scratch", "--steps", 2, "--batch-size", 8)
    assert runs.load_config(folder).steps == 2


def test_evaluating_writes_results_and_figures(script, digits_run: Path, capsys) -> None:
    script("evaluate", "--run", digits_run, "--top", 100, "--pool", 50)
    results = json.loads((digits_run / runs.RESULTS).read_text())
    assert (results["protocol"], results["bits"], results["queries"]) == ("p-all", 20, 359)
    assert results["rankings"]["codes"]["mAP"] > 0.2  # chance is 0.1
    assert results["rankings"]["coarse_to_fine"]["pool"] == 50
    for name in ("precision_recall.png", "precision_at_k.png", "training.png"):
        with Image.open(digits_run / name) as picture:
            assert picture.width > 100
    assert "p-all, 20 bits, 359 queries" in capsys.readouterr().out
    script("evaluate", "--run", digits_run, "--protocol", "fraction")
    printed = capsys.readouterr().out
    assert "careful: the run was trained on" in printed
    with pytest.raises(SystemExit) as stopped:
        script("evaluate", "--run", digits_run, "--protocol", "p-dhs")
    assert "p-dsh" in str(stopped.value.code)


def test_a_folder_of_photos_is_encoded_and_asked(
    script, digits_run: Path, tmp_path: Path, capsys
) -> None:
    digits = load_dataset("digits", image_size=8)
    photos = tmp_path / "photos"
    for row in range(30):
        folder = photos / digits.classes[digits.labels[row]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.items[row, :, :, 0]).save(folder / f"{row}.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    index = tmp_path / "photos.index"
    words = ["--run", digits_run, "--data", photos, "--out", index]
    with pytest.raises(SystemExit) as stopped:
        script("encode", *words)
    assert "broken.jpg" in str(stopped.value.code) or "decode" in str(stopped.value.code)
    assert not index.exists()
    script("encode", *words, "--max-undecodable", 0.1)
    printed = capsys.readouterr().out
    assert "broken.jpg" in printed
    assert "30 codes of 20 bits" in printed
    with pytest.raises(SystemExit) as stopped:
        script("encode", *words, "--max-undecodable", 0.1)
    assert "--overwrite" in str(stopped.value.code)

    picture = next(photos.rglob("7.png"))
    gallery = tmp_path / "out.png"
    script("query", "--run", digits_run, "--index", index, picture, "-k", 3, "--gallery", gallery)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{picture}:"
    assert lines[1].split() == ["distance", "id", "path"]
    assert float(lines[2].split()[0]) < 0.01
    assert lines[2].endswith(str(picture))
    assert len([line for line in lines if line.endswith(".png")]) == 3
    with Image.open(gallery) as drawn:
        assert drawn.width > drawn.height
    script("query", "--run", digits_run, "--index", index, picture, "-k", 2, "--pool", 0)
    assert "0 bits" in capsys.readouterr().out
    script("query", "--run", digits_run, "--index", index, picture, "--pool", 0, "--radius", 0)
    assert str(picture) in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        script("query", "--run", digits_run, "--index", picture, picture)
    assert "not an index file" in str(stopped.value.code)

    damaged = tmp_path / "damaged.index"
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(SystemExit) as stopped:
        script("query", "--run", digits_run, "--index", damaged, picture, "--verify")
    assert "damaged.index" in str(stopped.value.code)

    # A file of features keeps the classes that the sub-folders name.
    (photos / "broken.jpg").unlink()
    features = tmp_path / "features.npz"
    script("encode", "--run", digits_run, "--data", photos, "--out", features)
    assert len(load_dataset(str(features)).classes) == 10


def test_a_part_of_a_dataset_is_encoded(script, digits_run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "test.index"
    words = ["--run", digits_run, "--data", "digits", "--out", out]
    script("encode", *words, "--part", "test", "--features", "none")
    assert "359 codes" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        script("encode", *words, "--overwrite", "--part", "tset")
    assert "train, test" in str(stopped.value.code)


def test_features_are_written_as_data(script, digits_run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "features.npz"
    words = ["--run", digits_run, "--data", "digits", "--out", out]
    script("encode", *words)
    assert "features of 1797 items" in capsys.readouterr().out
    digits = load_dataset("digits", image_size=8)
    features = load_dataset(str(out))
    assert features.kind == "features"
    assert features.classes == digits.classes
    assert features.parts.keys() == digits.parts.keys()
    for part, rows in digits.parts.items():
        kept = features.labels[features.parts[part]]
        np.testing.assert_array_equal(kept, digits.labels[rows])
    assert len(np.unique(features.items[np.arange(1797)].round(3), axis=0)) > 1000
    with pytest.raises(SystemExit) as stopped:
        script("encode", *words, "--overwrite", "--part", "test")
    assert "--part" in str(stopped.value.code)


RECIPES = sorted((ROOT / "configs").glob("*.toml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_can_be_read_and_says_what_to_expect(file: Path, monkeypatch) -> None:
    head = file.read_text().partition("\ndata")[0]
    assert "mAP" in head or "no score is given" in head
    called = [line for line in head.splitlines() if f"--config configs/{file.name}" in line]
    assert called
    for line in called:
        # As it stands there, the command makes a configuration.
        monkeypatch.chdir(ROOT)
        before, _, words = line.lstrip("# ").partition(" --config ")
        if before == "jaxhash train":
            command = importlib.import_module("jaxhash.cli.train").COMMAND
        else:
            assert before == "python scripts/benchmarks/curve.py"
            monkeypatch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
            command = importlib.import_module("curve").COMMAND
        chosen = parse(command, ["--config", *words.split()])
        assert chosen.config.data.startswith(("cifar10", "mnist", "uc_merced", "features.npz"))
