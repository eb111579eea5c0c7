"""CPU milliseconds an image of EfficientNet-Lite0 by jax, onnxruntime and PyTorch, in turn.

    python scripts/benchmarks/backbone.py --rounds 10
    taskset -c 0 python scripts/benchmarks/backbone.py --rounds 30 --layers

The same weights in all: for onnxruntime a graph is written from them, with the package `onnx`;
PyTorch, which is left out where it is not installed, keeps channels last, as its own pages advise.
Features are compared first. CPU time counts all threads; onnxruntime's are not left spinning, which
would count too. Memory is kept between calls, as the command `jaxhash` does. A minute.

`--layers`: the depthwise layers alone, by jax and as onnxruntime's own profile has them, which
leaves out how it lays out their input and the call from Python; jax takes each many times in one
call, and onnxruntime is called as often. That is time on the clock: onnxruntime has one thread, and
`taskset` gives jax one.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime
from limits import processor
from onnx import TensorProto, helper, numpy_helper

from jaxhash.nets import efficientnet_lite
from jaxhash.nets.cpu.depthwise import depthwise
from jaxhash.training.allocator import keep_memory
from jaxhash.training.backbones import BACKBONES
from jaxhash.trees import flatten

SIDE = 224
TURNS = 20  # times that a layer is taken in one call, beside the first


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
    sides = {"images": ["n", 3, SIDE, SIDE], "pooled": ["n", efficientnet_lite.HEAD]}
    return model(nodes, sides, kept)


def model(nodes: list[Any], sides: dict[str, Any], kept: list[Any]) -> bytes:
    """Nodes as an ONNX file. sides: the shapes of its input and its output."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides[name]) for name in sides]
    made = helper.make_graph(nodes, "efficientnet-lite0", infos[:1], infos[1:], kept)
    found = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(found.SerializeToString())


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


def compare_layers(params: dict[str, Any], batch: int, rounds: int) -> None:
    """Time each depthwise layer with its bias and clip, in turn, and print a row for each."""
    rng = np.random.default_rng(0)
    side, sums = SIDE // 2, np.zeros(2)
    print(f"batches of {batch}, ms an image, least, on the clock; load {os.getloadavg()}")
    print("| layer | image | kernel | stride | jax | onnxruntime | jax by onnxruntime |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for at, (_, _, stride, _) in enumerate(efficientnet_lite.blocks(1.0, 1.0)):
        layer = params[f"block{at + 1}"]["depthwise"]
        size, _, channels = layer["kernel"].shape
        images = rng.uniform(0, 6, (batch, side, side, channels)).astype(np.float32)
        times = layer_times(layer, images, stride, rounds)
        sums += times
        print(
            f"| {at + 1} | {side} x {side} x {channels} | {size} x {size} | {stride} | "
            f"{times[0]:.3f} | {times[1]:.3f} | {times[0] / times[1]:.2f} |"
        )
        side = -(-side // stride)
    print(f"| all | | | | {sums[0]:.2f} | {sums[1]:.2f} | {sums[0] / sums[1]:.2f} |")


def layer_times(
    layer: dict[str, np.ndarray], images: np.ndarray, stride: int, rounds: int
) -> tuple[float, float]:
    """Least milliseconds an image of a depthwise layer by jax and by onnxruntime."""

    @jax.jit
    def ours(images: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return depthwise(images, kernel, bias, stride)

    @jax.jit
    def often(images: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        def again(turn: jax.Array, before: jax.Array) -> jax.Array:
            return ours(images, kernel, bias + turn)  # of another bias, or it were taken once

        return jax.lax.fori_loop(0, TURNS, again, ours(images, kernel, bias))

    arrays = jax.device_put((images, layer["kernel"], layer["bias"]))
    kernel = np.ascontiguousarray(layer["kernel"].transpose(2, 0, 1)[:, None])
    kept = {"kernel": kernel, "bias": layer["bias"], "l": np.zeros((), np.float32)}
    kept["h"] = np.full((), 6, np.float32)
    words: dict[str, Any] = {
        "auto_pad": "SAME_UPPER",
        "strides": [stride] * 2,
        "group": len(kernel),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["sum"], **words),
        helper.make_node("Clip", ["sum", "l", "h"], ["y"]),
    ]
    turned = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    sides = {"x": turned.shape, "y": ["n", len(kernel), "h", "w"]}
    file = model(nodes, sides, [numpy_helper.from_array(kept[name], name) for name in kept])
    settings = onnxruntime.SessionOptions()
    settings.enable_profiling, settings.intra_op_num_threads = True, 1
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = os.path.join(folder, "profile")
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        (theirs,) = session.run(None, {"x": turned})
        found = np.asarray(ours(*arrays)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found, theirs, atol=1e-3)
        for _ in range(rounds):
            run = measured(lambda: jax.block_until_ready(often(*arrays)), len(images))
            spent.append(run[1] / (TURNS + 1))
            for _ in range(TURNS):
                session.run(None, {"x": turned})
        with open(session.end_profiling(), encoding="utf-8") as lines:
            events = json.load(lines)
    # Where it lays out the input first, the clip is in the convolution's node.
    layers = [
        [
            event["dur"]
            for event in events
            if event["name"].endswith("_kernel_time") and event["args"].get("op_name") == kind
        ]
        for kind in ("Conv", "Clip")
    ]
    return min(spent), sum(min(one) for one in layers if one) / 1e3 / len(images)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 4, 1])
    parser.add_argument("--layers", action="store_true", help="the depthwise layers alone")
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
        if options.layers:
            compare_layers(params, batch, options.rounds)
            continue
        images = np.random.default_rng(0).normal(size=(batch, SIDE, SIDE, 3)).astype(np.float32)
        compare(tasks(images), batch, options.rounds)


if __name__ == "__main__":
    main()
