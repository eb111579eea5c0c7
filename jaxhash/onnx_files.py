"""Networks in ONNX files, run as they are by onnxruntime: prepared images in, features out.

A file says which arrays it takes and gives, but seldom how the pixels are to be scaled: that is
asked for when a run begins (`jaxhash.training.onnx_backbone`). A model keeps the sha256 of the file
that it was trained on, and refuses another file.
"""

import functools
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COMPANIONS = (".data", "_data")
"""Endings of the file of weights that large files leave beside them: net.onnx.data."""
POOLS = ("none", "first", "mean")
"""What is made of outputs of shape (n, tokens, d): nothing, the first token, or their mean."""
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class OnnxFile:
    """A network in a file, and how it is used.

    Attributes:
        file: Path of the file.
        sha256: SHA-256 of the file and of the weights beside it, in hexadecimal.
        side: Side of the square images that it takes, in pixels.
        channels: Channels of these images, 1 or 3.
        layout: "nchw" or "nhwc".
        output: Name of the output that is taken.
        pool: One of `POOLS`.
        features: Length of the feature vector of an image.
    """

    file: str
    sha256: str
    side: int
    channels: int
    layout: str
    output: str
    pool: str
    features: int

    def run(self, images: np.ndarray) -> np.ndarray:
        """Features of prepared images.

        Args:
            images: float32 (n, side, side, channels), scaled as the network wants them.

        Returns:
            float32 (n, features), each row scaled to length 1, as the angle between features says
            more than their distance.

        Raises:
            ModuleNotFoundError: onnxruntime is not installed; the message says what to install.
            FileNotFoundError, ValueError: the file is not there, is another one, or gives something
                else than finite features.

        Example:
            >>> spec.onnx.run(images).shape  # doctest: +SKIP
            (16, 384)
        """
        session = _checked(self.file, self.sha256, self.output)
        found = raw(session, images, self.layout, self.output, Path(self.file).name)
        features = pooled(found, self.pool)
        if features is None or features.shape[1] != self.features:
            raise ValueError(
                f"{self.file}: its output {self.output!r} has another shape than at first"
            )
        return of_length_1(features, self.file)


def digest(file: str | Path) -> str:
    """The sha256 of a file, and of the weights that lie beside it, in hexadecimal.

    Raises:
        FileNotFoundError: there is no such file.
    """
    total = hashlib.sha256()
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such ONNX file")
    for part in parts(file):
        with part.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def parts(file: str | Path) -> list[Path]:
    """The file itself and the weights beside it."""
    beside = (Path(f"{file}{ending}") for ending in COMPANIONS)
    return [Path(file), *(path for path in beside if path.is_file())]


def place(onnx: OnnxFile, folder: Path) -> None:
    """Keep the file in a run's folder, so that the run needs nothing else: linked, or else copied.

    Raises:
        FileNotFoundError, ValueError: the file is not there any more, or is another one.
        OSError: it cannot be written.
    """
    if Path(onnx.file).parent.resolve() == folder.resolve():
        return
    check_same(onnx.file, onnx.sha256)
    for part in parts(onnx.file):
        there = folder / part.name
        there.unlink(missing_ok=True)
        try:
            os.link(part.resolve(), there)
        except OSError:
            shutil.copyfile(part, there)


def check_same(file: str, sha256: str) -> None:
    """Refuse a file that is not the one a model was made on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another one.
    """
    found = digest(file)
    if found != sha256:
        raise ValueError(
            f"{file} is not the network that the run was made on; its sha256 is {found[:16]}..., "
            f"and was {sha256[:16]}...; put that file back, or train and encode again on this one"
        )


# ---------------------------------------------------------------- running


def open_session(file: str | Path, output: str | None = None) -> Any:
    """A session of onnxruntime; an inner value that `output` names is made an output.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed, or onnx, which an inner value needs.
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX file, or holds no such value.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "networks in ONNX files need onnxruntime, which is not installed; pip install "
            "'jaxhash[onnx]'"
        ) from None
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is said by the error

    def start(model: str | bytes) -> Any:
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each reason
            raise ValueError(
                f"{file} cannot be read as an ONNX file ({_reason(error)}); export it again, or "
                "give another"
            ) from None

    session = start(str(file))
    if output is None or output in [one.name for one in session.get_outputs()]:
        return session
    return start(_with_output(file, output))


def _with_output(file: str | Path, output: str) -> bytes:
    """The file with one of its inner values as a further output."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"output {output!r} is none of the outputs of {file}, and an inner value needs the "
            "package onnx; pip install 'jaxhash[onnx]', or name one of its outputs"
        ) from None
    model = onnx.load(str(file))
    inner = {name for node in model.graph.node for name in node.output}
    if output not in inner:
        raise ValueError(
            f"{file} holds no value {output!r}; its outputs are "
            f"{', '.join(one.name for one in model.graph.output)}"
        )
    model.graph.output.append(onnx.ValueInfoProto(name=output))
    return model.SerializeToString()


@functools.lru_cache(maxsize=2)
def _checked(file: str, sha256: str, output: str) -> Any:
    check_same(file, sha256)
    return open_session(file, output)


def raw(session: Any, images: np.ndarray, layout: str, output: str, name: str) -> np.ndarray:
    """A session's output for images float32 (n, side, side, channels), in batches of its size.

    Raises:
        ValueError: the network fails on them.
    """
    (taken,) = session.get_inputs()
    side = images.shape[1]
    if layout == "nchw":
        images = images.transpose(0, 3, 1, 2)
    size = taken.shape[0] if isinstance(taken.shape[0], int) else len(images)
    kind = np.float16 if taken.type == "tensor(float16)" else np.float32
    found = []
    for start in range(0, len(images), max(size, 1)):
        part = images[start : start + size]
        batch = np.zeros((size, *part.shape[1:]), kind)
        batch[: len(part)] = part
        try:
            (given,) = session.run([output], {taken.name: batch})
        except Exception as error:  # onnxruntime has a class of its own for each reason
            raise ValueError(
                f"{name} fails on images of {side} x {side} pixels ({_reason(error)}); give the "
                "side and layout that it was exported for"
            ) from None
        found.append(np.asarray(given)[: len(part)])
    return np.concatenate(found)


def pooled(found: np.ndarray, pool: str) -> np.ndarray | None:
    """An output as float32 (n, d); None where it has another form."""
    if found.ndim > 2 and found[0].size == found.shape[1]:
        found = found.reshape(len(found), -1)  # (n, d, 1, 1), as after pooling
    if found.ndim == 3 and pool != "none":
        found = found[:, 0] if pool == "first" else found.mean(axis=1, dtype=np.float32)
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        return None
    return found.astype(np.float32)


def of_length_1(features: np.ndarray, file: str) -> np.ndarray:
    """Features divided by their lengths.

    Raises:
        ValueError: some are not finite.
    """
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{file} gives numbers that are not finite for {broken.sum()} of {len(features)} "
            "images; export it in float32, and check mean and std"
        )
    length = np.sqrt(np.square(features).sum(axis=1, keepdims=True))
    return features / np.maximum(length, 1e-12)


def _reason(error: Exception) -> str:
    """One line of what onnxruntime said."""
    text = str(error).strip().splitlines()
    return text[0].removeprefix("[ONNXRuntimeError] : ")[:200] if text else type(error).__name__
