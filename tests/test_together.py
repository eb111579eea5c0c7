"""Evaluation and encoding by two processes: what one finds, said and written by the first."""

import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_processes import both
from test_shards import tiny_model

from jaxhash import cli, models, processes, runs, supervising
from jaxhash.config import Config

TOGETHER = """
import importlib, json, sys
import jax
process, folder = int(sys.argv[1]), sys.argv[3]
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, process)
from jaxhash import cli
from jaxhash.cli.command import parse

for words in json.loads(sys.argv[4]):
    cli.main([word.replace("WHO", "both") for word in words])
print("then", flush=True)

def refused(name, command, *words):
    command = importlib.import_module(f"jaxhash.cli.{command}").COMMAND
    try:
        command.act(parse(command, words))
    except (ValueError, OSError) as error:
        print(name, type(error).__name__, error, sep="|")

here = ("--data", f"{folder}/photos", "--out", f"{folder}/none.index")
refused("model", "encode", "--run", f"{folder}/{'other' if process else 'both'}", *here)
refused("images", "encode", "--run", f"{folder}/both", *here, "--batch-size", str(8 + 8 * process))
refused("there", "encode", "--run", f"{folder}/both", *here[:3], f"{folder}/both.index")
refused("none", "evaluate", "--run", f"{folder}/{'nothing' if process else 'both'}")
refused("top", "evaluate", "--run", f"{folder}/both", "--top", str(9 + process))
"""


def make_photos(folder: Path, count: int, rng: np.random.Generator) -> None:
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (18, 16, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 pictures, another folder of which one is cut short, and three runs."""
    folder, rng = tmp_path_factory.mktemp("together"), np.random.default_rng(0)
    make_photos(folder / "photos", 45, rng)
    make_photos(folder / "holed", 21, rng)
    (folder / "holed" / "columns.csv").write_text("path,year\na/04.png,2020\n")
    cut = folder / "holed" / "b" / "11.png"
    cut.write_bytes(cut.read_bytes()[:-300])
    config = Config(
        data=str(folder / "photos"), network="dsh", method="dlbhc", bits=11, image_size=16
    )
    for name, seed in (("alone", 0), ("both", 0), ("other", 1)):
        runs.create(folder / name, config)
        models.save(tiny_model(seed), folder / name)
    return folder


def jobs(folder: Path) -> list[list[str]]:
    """Command lines in which WHO stands for who runs them."""
    batch = ["--batch-size", "8"]  # 6 batches of `photos`, 3 of `holed`
    encode = ["encode", "--run", f"{folder}/WHO", "--max-undecodable", "0.1", *batch]
    holed = [*encode, "--data", f"{folder}/holed"]
    return [
        ["evaluate", "--run", f"{folder}/WHO", *batch],
        [*holed, "--columns", f"{folder}/holed/columns.csv", "--out", f"{folder}/WHO.index"],
        [*holed, "--shards", "3", "--out", f"{folder}/WHO.shards"],
        [*encode, "--data", f"{folder}/photos", "--out", f"{folder}/WHO.npz"],
    ]


@pytest.fixture(scope="module")
def said(folder: Path) -> list[str]:
    """What each of two processes wrote to standard output."""
    ended = both(TOGETHER, folder, json.dumps(jobs(folder)), devices=jax.device_count())
    for one in ended:
        assert one.returncode == 0, one.stderr
    return [one.stdout for one in ended]


def test_two_processes_find_what_one_does(
    folder: Path, said: list[str], capsys: pytest.CaptureFixture
) -> None:
    for words in jobs(folder):
        cli.main([word.replace("WHO", "alone") for word in words])
    assert said[0].partition("then\n")[0] == capsys.readouterr().out.replace("alone", "both")
    assert said[1].startswith("then\n")

    alone, both = (runs.read_json(folder / who / runs.RESULTS) for who in ("alone", "both"))
    for results in (alone, both):
        del results["seconds"], results["environment"]
    assert alone == both
    # To the byte: codes, features, ids, digests of the files, columns, what was left out.
    assert (folder / "alone.index").read_bytes() == (folder / "both.index").read_bytes()
    names = sorted(each.name for each in (folder / "alone.shards").glob("*.index"))
    assert len(names) == 3
    for name in names:
        shards = [(folder / f"{who}.shards" / name).read_bytes() for who in ("alone", "both")]
        assert shards[0] == shards[1]
    with np.load(folder / "alone.npz") as one, np.load(folder / "both.npz") as other:
        assert sorted(one) == sorted(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("model", ("process 1 has another model than process 0",) * 2),
        ("images", ("process 1 has another number of images in a batch",) * 2),
        ("there", ("both.index exists", "OthersFailed|ended, as process 0 failed")),
        ("none", ("OthersFailed|ended, as process 1 failed", "nothing")),
        ("top", ("process 1 has another top than process 0",) * 2),
    ],
)
def test_what_differs_ends_all(
    case: str, messages: tuple[str, str], folder: Path, said: list[str]
) -> None:
    for one, message in zip(said, messages, strict=True):
        rows = dict(line.split("|", 1) for line in one.splitlines() if "|" in line)
        assert message in rows[case]
    assert not (folder / "none.index").exists()


LOST = """
import os, signal, sys
process, port = sys.argv[1:3]
sys.argv = ["jaxhash", *sys.argv[3:], "--coordinator", f"localhost:{port}", "--processes", "2"]
sys.argv += ["--process", process]
from jaxhash import cli, encoding
tell = encoding._to_bytes

def killed(*told):
    if process == "1" and told[0][0] >= 16:
        os.kill(os.getpid(), signal.SIGKILL)
    return tell(*told)

encoding._to_bytes = killed
cli.main()
"""


def test_a_lost_process_ends_the_other(folder: Path) -> None:
    words = ["--run", folder / "both", "--data", folder / "photos", "--batch-size", 8]
    left, killed = both(LOST, "encode", *words, "--out", folder / "lost.index")
    assert killed.returncode == 128 + signal.SIGKILL
    assert left.returncode == supervising.LOST, left.stderr
    assert "lost another process" in left.stderr
    assert "Traceback" not in left.stderr
    assert not [each for each in folder.iterdir() if each.name.startswith("lost")]


def test_one_process_alone_tells_itself() -> None:
    assert processes.gather(b"") == [b""]
    assert processes.of_first(lambda: [1.5]) == [1.5]
