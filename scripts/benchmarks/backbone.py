"""CPU milliseconds an image of EfficientNet-Lite0 by jax and by onnxruntime, in turn.

    python scripts/benchmarks/backbone.py --rounds 10

The same weights in both: for onnxruntime a graph is written from them, with the package `onnx`.
Features are compared first. CPU time counts all threads; onnxruntime's are not left spinning, which
would count too. Memory is kept between calls, as the command `jaxhash` does. A minute.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnx
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


def measured(call: Callable[[], Any], images: int) -> tuple[float, float]:
    """Milliseconds an image of a call, of CPU and on the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    call()
    spent = time.process_time() - cpu, time.perf_counter() - clock
    return 1e3 * spent[0] / images, 1e3 * spent[1] / images


def compare(tasks: dict[str, Callable[[], Any]], batch: int, rounds: int) -> None:
    """Time tasks that give the features of one batch, in turn, and print a line for each."""
    one, other = (task() for task in tasks.values())
    apart = np.abs(one - other).max()
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
        return {
            "jax": lambda: jax.block_until_ready(pooled(weights, on_device)),
            "onnxruntime": lambda: session.run(None, {"images": turned})[0],
        }

    versions = ", ".join(f"{one.__name__} {one.__version__}" for one in (jax, onnxruntime, onnx))
    print(f"{processor()}, {os.cpu_count()} processors; {versions}")
    for batch in options.batches:
        images = np.random.default_rng(0).normal(size=(batch, SIDE, SIDE, 3)).astype(np.float32)
        compare(tasks(images), batch, options.rounds)


if __name__ == "__main__":
    main()
