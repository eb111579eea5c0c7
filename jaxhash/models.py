"""`Model`: a trained network, saved as model.safetensors (weights) and model.json (description).

Nothing else is needed to encode with it: not the training data, not the run directory, not even
this project (any reader of safetensors sees the arrays under their paths).
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from jaxhash import nets, onnx_files, runs
from jaxhash.data.pictures import as_items
from jaxhash.encoding import Encoded, encode
from jaxhash.nets import NETWORKS
from jaxhash.onnx_files import OnnxFile
from jaxhash.spec import PRECISIONS, ModelSpec
from jaxhash.trees import flatten, unflatten
from search.files.atomic import replacing

FORMAT = 1
WAY_OUT = "copy both files again, or export the model again"


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network: its description (`spec`) and its weights.

    Args:
        spec: the description of the network.
        variables: {"params": ..., "batch_stats": ...}, nested mappings of float32 arrays.
        run: the folder that it was loaded from or written to, if any; evaluations of the run say in
            which order its results are best.

    Example:
        >>> model = load("runs/photos")  # doctest: +SKIP
        >>> model.encode(["beach.jpg", "cat.png"]).codes.shape  # doctest: +SKIP
        (2, 8)
    """

    spec: ModelSpec
    variables: Mapping[str, Any] = field(repr=False)
    run: Path | None = field(default=None, repr=False)

    @property
    def bits(self) -> int:
        """Length of a code, in bits."""
        return self.spec.bits

    def encode(self, images: Any, **options: Any) -> Encoded:
        """Codes, features and latents of images, or of feature vectors.

        Args:
            images: a path, a PIL image or an array uint8 (height, width[, channels]); a list of
                these, of any sizes; or whatever `jaxhash.encoding.encode` takes: uint8
                (n, height, width, channels) or, for a model of features, float (n, d).
            options: of `jaxhash.encoding.encode`, such as `batch_size` and `features`.

        Returns:
            `Encoded` with NumPy arrays: codes uint8 (n, ceil(bits / 8)), features (n, D), latent
            float32 (n, bits), logits float32 (n, classes) or None.

        Raises:
            ValueError: an image cannot be decoded, or is not what the model takes.

        Example:
            >>> model.encode(["a.jpg", "b.jpg"]).codes.shape  # doctest: +SKIP
            (2, 8)
        """
        return encode(self, as_items(images, self.spec.item_shape), **options)


def save(model: Model, folder: Path | str) -> None:
    """Write model.safetensors and model.json into a folder; each is whole or absent.

    Example:
        >>> save(model, "runs/demo")  # doctest: +SKIP
    """
    folder = Path(folder)
    described = _describe(model.spec)
    if model.spec.onnx is not None:
        onnx_files.place(model.spec.onnx, folder)
        described["onnx"]["file"] = Path(model.spec.onnx.file).name
    # safetensors writes wrong numbers, without a word, from arrays that are not C-contiguous.
    arrays = {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in flatten(model.variables).items()
    }
    with replacing(folder / runs.WEIGHTS) as file:
        file.write(safetensors.numpy.save(arrays, metadata={"format": f"jaxhash model {FORMAT}"}))
    runs.write_json(folder / runs.MODEL, {"format": FORMAT} | described)


def load(folder: Path | str) -> Model:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: the files are damaged, of another version, or do not belong together.

    Example:
        >>> load("runs/demo").spec.bits  # doctest: +SKIP
        48
    """
    folder = Path(folder)
    for name in (runs.MODEL, runs.WEIGHTS):
        if not (folder / name).is_file():
            reason = (
                "its training has not finished; go on with it (resume=True) first"
                if (folder / runs.CONFIG).is_file()
                else "give the folder of a finished run"
            )
            raise FileNotFoundError(f"no {name} in {folder}; {reason}")
    try:
        values = runs.read_json(folder / runs.MODEL)
    except ValueError as error:
        raise ValueError(f"{error}; {WAY_OUT}") from None
    if values.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / runs.MODEL} is not of format {FORMAT}; export it again")
    try:
        arrays = safetensors.numpy.load_file(folder / runs.WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / runs.WEIGHTS} is damaged: {error}; {WAY_OUT}") from None
    described: dict[str, Any] = {
        name: tuple(one) if isinstance(one, list) else one for name, one in values.items()
    }
    try:
        if described.get("onnx") is not None:
            onnx = OnnxFile(**described["onnx"])
            _check_types(onnx)
            described["onnx"] = dataclasses.replace(onnx, file=str((folder / onnx.file).resolve()))
        spec = ModelSpec(**described)
        _check_types(spec)
        shapes = _shapes(spec)
    # A word or a number that is damaged can make nearly anything be raised when it is built.
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError | TypeError) else repr(error)
        raise ValueError(
            f"{folder / runs.MODEL} does not describe a model: {reason}; {WAY_OUT}"
        ) from error
    _check_fit(shapes, arrays, folder)
    return Model(spec, unflatten(arrays), folder.absolute())


def fingerprint(model: Model) -> str:
    """A hash of a model's weights and preprocessing, to tell models apart.

    Example:
        >>> fingerprint(load("runs/demo"))  # doctest: +SKIP
        '3b5d5c3712955042'
    """
    digest = hashlib.sha256(json.dumps(_describe(model.spec)).encode())
    for name, array in sorted(flatten(model.variables).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, np.float32).tobytes())
    return digest.hexdigest()[:16]


def _describe(spec: ModelSpec) -> dict[str, Any]:
    """The description as JSON values; of an ONNX file its sha256, and not its path."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
    for name in ("hidden", "onnx"):
        if values[name] is None:
            del values[name]  # models of networks without them keep their fingerprints
    if "onnx" in values:
        del values["onnx"]["file"]
    return values


def _check_types(described: ModelSpec | OnnxFile) -> None:
    """Refuse a value of another type than its field; JSON and a dataclass take any."""
    for name, kind in get_type_hints(type(described)).items():
        value = getattr(described, name)
        if not _is(value, kind):
            wanted = kind.__name__ if type(kind) is type else kind
            raise ValueError(f"{name} is {value!r}, and should be {wanted}")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        # Classes are called whatever the dataset calls them.
        return isinstance(value, tuple) and (item is str or all(_is(one, item) for one in value))
    return type(value) is kind or (kind is float and type(value) is int)


def _shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights that the description asks for."""
    for name, rows in (("network", NETWORKS), ("precision", PRECISIONS)):
        if getattr(spec, name) not in rows:
            raise ValueError(
                f"it names the {name} {getattr(spec, name)!r}, which is not one of "
                f"{', '.join(rows)}"
            )
    wanted = jax.eval_shape(
        lambda: nets.init(spec.build(), jax.random.key(0), (1, *spec.read_shape))
    )
    return {name: one.shape for name, one in flatten(wanted).items()}


def _check_fit(
    shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray], folder: Path
) -> None:
    for name in sorted(shapes.keys() | arrays.keys()):
        have = arrays[name].shape if name in arrays else "nothing"
        if shapes.get(name, "nothing") != have:
            raise ValueError(
                f"{folder / runs.WEIGHTS} does not fit {runs.MODEL}: {name} is {have}, "
                f"and should be {shapes.get(name, 'nothing')}; {WAY_OUT}"
            )
