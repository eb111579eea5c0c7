"""Several processes that train together: what they check, and what they do when one ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_steps import FAST, Loop, blobs, leaves

from jaxhash import runs, sharding, supervising
from jaxhash.config import Config
from jaxhash.training import checkpoints, loop, metrics_log, stopping

REPOSITORY = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


# Gloo writes to descriptor 1 by pieces, from threads of its own: here it has none.
PYTHON_ALONE = """
import os, sys
sys.stdout = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
"""


def both(code: str, *words: object, devices: int = 2) -> list[subprocess.CompletedProcess]:
    """Run code in two processes of some devices each, given their number, a port and the words.

    What they return as stdout is what Python writes, not the libraries below it.
    """
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_NUM_CPU_DEVICES": str(devices)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PYTHON_ALONE + code, str(process), str(port), *map(str, words)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        return [
            subprocess.CompletedProcess(one.args, one.wait(300), *one.communicate(timeout=300))
            for one in started
        ]
    finally:
        for one in started:
            one.kill()


# ---------------------------------------------------------------- together

TOGETHER = """
import sys
from pathlib import Path
import jax
import numpy as np
sys.path.insert(0, "tests")
from test_steps import FAST, Config, Loop, blobs, leaves, recorded
from jaxhash import sharding
from jaxhash.training import loop as training

process, folder = int(sys.argv[1]), Path(sys.argv[3])
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, process)

read = []
loop = Loop(Config(**FAST, steps=5, validation=0.0), recorded(blobs(), read), None)
losses = loop.run()["loss"]
assert len(read) == 5 * 8, read  # half of each batch, and nothing else
np.savez(folder / f"{process}.npz", *leaves(loop.state), losses=losses, read=read)

assert [one.process_index for one in sharding.take(2)] == [0, 1]

def refused(name, config, place, data=None, **options):
    try:
        training.train(Config(**config), place, dataset=data or blobs(), **options)
    except (ValueError, FileExistsError) as error:
        print(name, type(error).__name__, error, sep="|")
    else:
        print(name, "accepted", "", sep="|")

good = FAST | {"steps": 2}
refused("alone", good, folder / str(process) / "run")
refused("devices", good, folder / "run", devices=jax.devices()[:2])
refused("uneven", good, folder / "run", devices=jax.devices()[:3])
refused("options", good | {"bits": 8 + process, "average": 0.5 * process}, folder / "run")
refused("images", good, folder / "run", blobs(seed=process, n=120 + 3 * process))
refused("method", good | {"method": "dlbhc" if process else "dlhbc"}, folder / "run")
assert not (folder / "run").exists()
(folder / "full").mkdir(exist_ok=True)
(folder / "full" / "thesis.txt").write_text("years of work")
refused("full", good, folder / "full")
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """What two processes left in a folder, and how each was refused."""
    folder = tmp_path_factory.mktemp("together")
    for process in range(2):
        (folder / str(process)).mkdir()
    said = []
    for done in both(TOGETHER, folder):
        assert done.returncode == 0, done.stderr
        rows = [line.split("|", 1) for line in done.stdout.splitlines() if "|" in line]
        said.append(dict(rows))
    return folder, said


def test_two_processes_train_like_one(together: tuple[Path, list[dict[str, str]]]) -> None:
    folder, _ = together
    read = []
    alone = Loop(Config(**FAST, steps=5, validation=0.0), blobs(), 1)
    losses = alone.run()["loss"]
    for process in range(2):
        with np.load(folder / f"{process}.npz") as result:
            np.testing.assert_allclose(result["losses"], losses, rtol=1e-4)
            for at, leaf in enumerate(leaves(alone.state)):
                np.testing.assert_allclose(result[f"arr_{at}"], leaf, rtol=1e-3, atol=1e-6)
            read.extend(result["read"].tolist())
    expected = np.concatenate([alone.plan.rows(step) for step in range(5)])
    assert sorted(read) == sorted(alone.plan.split.train[expected].tolist())


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("alone", ("OthersFailed|ended, as process 1 failed", "does not see the")),
        ("devices", ("2 devices are not as many in each of 2 processes",) * 2),
        ("uneven", ("3 devices are not as many in each of 2 processes",) * 2),
        ("options", ("process 1 has another bits, average than process 0",) * 2),
        ("images", ("process 1 has another number or size of the images",) * 2),
        ("method", ("did you mean dlbhc", "OthersFailed|ended, as process 0 failed")),
        ("full", ("is not a run directory", "OthersFailed|ended, as process 0 failed")),
    ],
)
def test_what_cannot_be_done_together_ends_all(
    case: str, messages: tuple[str, str], together: tuple[Path, list[dict[str, str]]]
) -> None:
    folder, said = together
    for one, message in zip(said, messages, strict=True):
        assert message in one[case]
    assert not [one for one in folder.rglob("*") if one.name.startswith((".shared", "run"))]


# ---------------------------------------------------------------- the end of one of them

ENDING = """
import os, sys, time
process, port, at, number, sender = map(int, sys.argv[1:6])
sys.argv = ["jaxhash", "train", "--coordinator", f"localhost:{port}", "--processes", "2"]
sys.argv += ["--process", str(process), *WORDS]
from jaxhash import cli
from jaxhash.cli import train

def show(bar, progress):
    if process == sender and progress.step == at:
        os.kill(os.getpid(), number)
    if progress.step >= at:
        time.sleep(0.2)  # news of a signal takes up to a second

train.Bar.show = show
cli.main()
"""


def test_a_group_that_is_ended_goes_on_and_ends_like_one_that_was_not(tmp_path: Path) -> None:
    data, folder = tmp_path / "blobs.npz", tmp_path / "run"
    whole = blobs()
    parts = {
        f"{part}_{name}": values[rows]
        for part, rows in whole.parts.items()
        for name, values in (("features", whole.items), ("labels", whole.labels))
    }
    np.savez(data, **parts)
    # No checkpoint but the one that SIGTERM asks for: the kill comes before any other.
    options = FAST | {"steps": 60, "validation": 0.0, "eval_every": 100.0, "log_every": 1}
    words = ["--data", str(data), "--run", str(folder), "--resume"]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    code = ENDING.replace("WORDS", repr(words))

    # SIGTERM to one of them: both stop after the same step, and keep it.
    ended = both(code, 2, int(signal.SIGTERM), 1)
    for one in ended:
        assert one.returncode == stopping.STOPPED, one.stderr
        assert "stopped by SIGTERM after step" in one.stderr
        assert "Traceback" not in one.stderr
    with checkpoints.open_checkpoints(folder / runs.CHECKPOINTS) as kept:
        stopped = kept.latest_step()
    assert 2 < stopped < 60
    assert all(f"after step {stopped} of 60" in one.stderr for one in ended)
    assert metrics_log.read(folder)[-1]["step"] == stopped

    # The first one, which holds the group together, is killed.
    killed, left = both(code, stopped + 3, int(signal.SIGKILL), 0)
    assert killed.returncode == 128 + signal.SIGKILL
    assert left.returncode == supervising.LOST, left.stderr
    assert "lost another process" in left.stderr
    assert "stack trace" not in left.stderr
    assert "Traceback" not in left.stderr

    # What they have kept (an epoch may have ended since) is gone on with, by a process on its own.
    with checkpoints.open_checkpoints(folder / runs.CHECKPOINTS) as kept:
        last = kept.latest_step()
    assert stopped <= last <= stopped + 3
    config, one = runs.load_config(folder), jax.devices()[:1]
    steps: list[int] = []
    ended_alone = loop.train(
        config,
        folder,
        resume=True,
        devices=one,
        on_step=lambda progress: steps.append(progress.step),
    )
    assert steps == list(range(last + 1, 61))
    unbroken = loop.train(config, tmp_path / "unbroken", dataset=whole, devices=one)
    losses = [
        [row["loss"] for row in metrics_log.read(each)] for each in (folder, tmp_path / "unbroken")
    ]
    assert len(losses[1]) == 60
    np.testing.assert_allclose(*losses, rtol=1e-4)  # of two processes, then of one
    for a, b in zip(leaves(ended_alone.variables), leaves(unbroken.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_sigterm_ends_a_run_at_the_next_step_and_it_goes_on(tmp_path: Path) -> None:
    def terminate(progress: loop.Progress) -> None:
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    config, one = Config(**FAST, steps=9, log_every=4, validation=0.0), jax.devices()[:1]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stopping.Stopped, match="after step 6 of 9; go on with resume=True"):
        loop.train(config, tmp_path / "run", dataset=blobs(), on_step=terminate, devices=one)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [row["step"] for row in metrics_log.read(tmp_path / "run")] == [4, 6]
    steps: list[int] = []
    broken = loop.train(
        config,
        tmp_path / "run",
        dataset=blobs(),
        resume=True,
        devices=one,
        on_step=lambda progress: steps.append(progress.step),
    )
    assert steps == [7, 8, 9]
    unbroken = loop.train(config, None, dataset=blobs(), devices=one)
    for a, b in zip(leaves(broken.variables), leaves(unbroken.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_program_keeps_its_own_handler_of_sigterm() -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with stopping.Notice() as notice:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not notice.reached(1)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_devices_are_taken_in_order() -> None:
    assert sharding.take(3) == jax.devices()[:3]
    with pytest.raises(ValueError, match="there are 8"):
        sharding.take(9)
