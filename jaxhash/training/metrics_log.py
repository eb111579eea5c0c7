"""The metrics of a run: one line of JSON for each logged step, and TensorBoard where asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from jaxhash.runs import METRICS, write_text


class MetricsLog:
    """Appends to a run's metrics.jsonl; a line is written whole or not at all.

    after: rows of later steps are dropped first, since a resumed run writes them again.

    Raises:
        ModuleNotFoundError: TensorBoard was asked for, and its package is not installed.

    Example:
        >>> with MetricsLog("runs/mine") as log:  # doctest: +SKIP
        ...     log.write({"step": 100, "loss": 0.25})
    """

    def __init__(self, folder: Path | str, *, after: int = 0, tensorboard: bool = False) -> None:
        path = Path(folder) / METRICS
        kept = [row for row in read(folder) if row.get("step", 0) <= after]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board: Any = None
        if tensorboard:
            # TensorBoard hides what an interrupted run wrote from the purged step on.
            writer, where = tensorboard_writer(), Path(folder) / "tensorboard"
            self._board = writer(str(where), purge_step=after + 1)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row, which has a "step"."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a line that a crash cut short is left out.

    Example:
        >>> [row["loss"] for row in read("runs/demo")]  # doctest: +SKIP
    """
    path = Path(folder) / METRICS
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def tensorboard_writer() -> Any:
    """The writer class of tensorboardX.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ModuleNotFoundError(
            "tensorboard needs a package that is not installed; pip install tensorboardX, "
            "or set tensorboard=False"
        ) from None
    return SummaryWriter
