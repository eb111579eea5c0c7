"""CPU milliseconds an image of EfficientNet-Lite0 by jax, onnxruntime and PyTorch, in turn.

    python scripts/benchmarks/backbone.py --rounds 10

The same weights in all: for onnxruntime a graph is written from them, with the package `onnx`;
PyTorch, which is left out where it is not installed, keeps channels last, as its own pages advise.
Features are compared first. CPU time counts all threads; onnxruntime's are not left spinning, which
would count too. Memory is kept between calls, as the command `jaxhash` does. A minute.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime
from limits import processor
from onnx import TensorProto, helper, numpy_helper

from jaxhash.nets import efficientnet_lite
from jaxhash.training.allocator import keep_memory
from jaxhash.training.backbones import BACKBONES
from jaxhash.trees import flatten

SIDE = 224


def graph(params: dict[str, Any]) -> bytes:
    """EfficientNet-Lite0 up to the mean over places, as an ONNX file."""
    layers = flatten(params)
    nodes: list[Any] = []
    ends = {"l": np.zeros((), np.float32), "h": np.full((), 6, np.float32)}
    kept = [numpy_helper.from_array(one, name) for name, one in ends.items()]

    def convolution(x: str, name: str, stride: int = 1, *, clipped: bool = True) -> str:
        kernel = layers[f"{name}/kernel"]
        groups = kernel.shape[2] if kernel.ndim == 3 else 1
        kernel = (kernel[:, :, None] if kernel.ndim == 3 else kernel).transpose(3, 2, 0, 1)
        for part, array in (("kernel", kernel), ("bias", layers[f"{name}/bias"])):
            kept.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}/{part}"))
        words: dict[str, Any] = {"auto_pad": "SAME_UPPER", "strides": [stride] * 2, "group": groups}
        inputs = [x, f"{name}/kernel", f"{name}/bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}/sum"], **words))
        if clipped:
            nodes.append(helper.make_node("Clip", [f"{name}/sum", "l", "h"], [name]))
        return name if clipped else f"{name}/sum"

    x, channels = convolution("images", "stem", 2), efficientnet_lite.STEM
    for at, (expansion, width, stride, _) in enumerate(efficientnet_lite.blocks(1.0, 1.0)):
        name = f"block{at + 1}"
        y = convolution(x, f"{name}/expand") if expansion > 1 else x
        y = convolution(y, f"{name}/depthwise", stride)
        y = convolution(y, f"{name}/project", clipped=False)
        if stride == 1 and width == channels:
            nodes.append(helper.make_node("Add", [x, y], [name]))
            y = name
        x, channels = y, width
    nodes.append(helper.make_node("GlobalAveragePool", [convolution(x, "head")], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["pooled"]))
    shapes: dict[str, Any] = {
        "images": ["n", 3, SIDE, SIDE],
        "pooled": ["n", efficientnet_lite.HEAD],
    }
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in shapes
    ]
    made = helper.make_graph(nodes, "efficientnet-lite0", sides[:1], sides[1:], kept)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def by_torch(params: dict[str, Any], images: np.ndarray) -> Callable[[], np.ndarray]:
    """A call that gives the mean over places of EfficientNet-Lite0, by PyTorch."""
    # Threads that wait would count; PyTorch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from torch.nn import functional

    last = torch.channels_last
    layers = flatten(params)
    kernels = {}
    for name in {name.rpartition("/")[0] for name in layers}:
        kernel = layers[f"{name}/kernel"]
        kernel = (kernel[:, :, None] if kernel.ndim == 3 else kernel).transpose(3, 2, 0, 1)
        kernels[name] = torch.from_numpy(np.array(kernel)).contiguous(memory_format=last)
    biases = {name: torch.from_numpy(np.array(layers[f"{name}/bias"])) for name in kernels}

    def convolution(x: Any, name: str, stride: int = 1) -> Any:
        kernel = kernels[name]
        groups = len(kernel) if kernel.shape[1] == 1 else 1
        zeros = max((-(-x.shape[2] // stride) - 1) * stride + kernel.shape[2] - x.shape[2], 0)
        before = zeros // 2
        if 2 * before != zeros:
            x, before = functional.pad(x, (before, zeros - before) * 2), 0
        return functional.conv2d(x, kernel, biases[name], stride, before, 1, groups)

    def pooled() -> np.ndarray:
        with torch.inference_mode():
            x = functional.relu6(convolution(given, "stem", 2))
            for at, (expansion, _, stride, _) in enumerate(efficientnet_lite.blocks(1.0, 1.0)):
                name = f"block{at + 1}"
                y = functional.relu6(convolution(x, f"{name}/expand")) if expansion > 1 else x
                y = functional.relu6(convolution(y, f"{name}/depthwise", stride))
                y = convolution(y, f"{name}/project")
                x = x + y if x.shape == y.shape else y
            mean = functional.relu6(convolution(x, "head")).mean((2, 3))
            return np.asarray(mean)

    given = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2))).contiguous(memory_format=last)
    return pooled


def measured(call: Callable[[], Any], images: int) -> tuple[float, float]:
    """Milliseconds an image of a call, of CPU and on the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    call()
    spent = time.process_time() - cpu, time.perf_counter() - clock
    return 1e3 * spent[0] / images, 1e3 * spent[1] / images


def compare(tasks: dict[str, Callable[[], Any]], batch: int, rounds: int) -> None:
    """Time tasks that give the features of one batch, in turn, and print a line for each."""
    one, *others = (task() for task in tasks.values())
    apart = max(np.abs(one - other).max() for other in others)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            times[name].append(measured(task, batch))
    print(f"batches of {batch}; features differ by at most {apart:.1e}; load {os.getloadavg()}")
    for name, taken in times.items():
        cpu, clock = zip(*taken, strict=True)
        print(
            f"  {name:12} CPU ms an image: least {min(cpu):5.1f}, median "
            f"{statistics.median(cpu):5.1f}; on the clock: least {min(clock):5.1f}"
        )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 4, 1])
    options = parser.parse_args()
    keep_memory()
    params = BACKBONES["efficientnet-lite0"].params()
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        graph(params), settings, providers=["CPUExecutionProvider"]
    )
    trunk = efficientnet_lite.lite0()
    pooled = jax.jit(lambda params, images: trunk.apply(params, images, method="pooled"))
    weights = {"params": jax.device_put(params)}

    def tasks(images: np.ndarray) -> dict[str, Callable[[], Any]]:
        on_device = jax.device_put(images)
        turned = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        found: dict[str, Callable[[], Any]] = {
            "jax": lambda: jax.block_until_ready(pooled(weights, on_device)),
            "onnxruntime": lambda: session.run(None, {"images": turned})[0],
        }
        return found | ({"torch": by_torch(params, images)} if has_torch else {})

    has_torch = importlib.util.find_spec("torch") is not None
    programs = ("jax", "onnxruntime", "onnx", *(("torch",) if has_torch else ()))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in programs)
    print(f"{processor()}, {os.cpu_count()} processors; {versions}")
    for batch in options.batches:
        images = np.random.default_rng(0).normal(size=(batch, SIDE, SIDE, 3)).astype(np.float32)
        compare(tasks(images), batch, options.rounds)


if __name__ == "__main__":
    main()
