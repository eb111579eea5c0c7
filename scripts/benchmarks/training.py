"""jaxhash's training step beside the same network in PyTorch, on the CPU.

    python scripts/benchmarks/training.py --out training.json
    python scripts/benchmarks/training.py --batch-size 64 --rounds 3 --precisions float32 \
        --kinds jaxhash torch     # a quick look

One step is forward, backward and SGD with Nesterov momentum on one batch of random images, with
DLBHC's loss; ours is the one that jaxhash train compiles. First both are given the same weights
and images, and the loss and every gradient compared: the script stops if they differ. Then the
steps are timed in turn, round after round, so that other load on the machine affects all alike;
compiling is timed apart. `library` is our step with XLA's own convolution and pooling in place of
ours. The rate of one large matrix product shows how near the hardware's limit is.

Needs the `bench` extra (PyTorch). About four minutes at the defaults on two cores.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import avx2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import tyro
from limits import in_turn, processor
from torch import nn
from torch.nn import functional

from jaxhash import nets
from jaxhash.method import METHODS
from jaxhash.nets import resnet
from jaxhash.nets.cpu import convolution
from jaxhash.training.allocator import keep_memory
from jaxhash.training.feeding import Batch
from jaxhash.training.steps import initial_state, initial_variables, make_train_step

CLASSES = 10
MOMENTUM = 0.9

Step = Callable[[], Any]


@dataclass(frozen=True)
class Config:
    """What to measure, and how often."""

    network: str = "resnet"
    """resnet or resnet-small."""
    size: int = 32
    """Side of the images in pixels, a multiple of 8."""
    batch_size: int = 256
    """Images in a step."""
    bits: int = 48
    """Bits of the code."""
    rounds: int = 7
    """Steps of each kind, in turn."""
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    """Number types that the steps compute in."""
    kinds: tuple[str, ...] = ("jaxhash", "torch", "library")
    """Which steps."""
    tolerance: float = 1e-2
    """Largest difference of a gradient between the two, as a share of its norm."""
    learning_rate: float = 0.01
    """Of both optimisers."""
    threads: int = len(os.sched_getaffinity(0))
    """Threads of PyTorch; jax takes all processors it is allowed."""
    avx2: bool = False
    """Hold both to AVX2, see avx2.py."""
    out: Path | None = None
    """Also write everything as JSON."""


def main(config: Config) -> None:
    """Compare, measure, print a table."""
    if config.avx2:
        avx2.hold()
    kept = keep_memory()
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shape = config.batch_size, config.size, config.size, 3
    images = rng.normal(size=shape).astype(np.float32)
    labels = rng.integers(0, CLASSES, config.batch_size)

    difference = compare(config, images, labels)
    worst = max(difference, key=lambda name: difference[name])
    print(f"same loss and gradients: largest difference {difference[worst]:.1e} ({worst})")
    if not difference[worst] < config.tolerance:
        raise SystemExit(f"{worst} differs by more than {config.tolerance}: the two do not agree")

    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
    makers = {"jaxhash": our_step, "torch": torch_step, "library": stock_step}
    for dtype in config.precisions:
        for name in config.kinds:
            start = time.perf_counter()
            step = makers[name](config, dtype, images, labels)
            step()
            first[f"{name} {dtype}"] = time.perf_counter() - start
            steps[f"{name} {dtype}"] = step
    times = in_turn(steps, config.rounds)
    products = in_turn(large_products(config.precisions), config.rounds)

    print(f"{'':18}  images/s best  median   first step (with compiling) s")
    for name, seconds in times.items():
        best, median = (config.batch_size / f(seconds) for f in (min, statistics.median))
        print(f"{name:18}  {best:13.0f}  {median:6.0f}  {first[name]:6.1f}")
    rates = {name: 2 * 2048**3 / min(seconds) / 1e9 for name, seconds in products.items()}
    for name, rate in rates.items():
        print(f"{name:18}  {rate:13.0f}  Gflop/s in one product of 2048 x 2048 matrices")

    errors = rounding_errors()
    for name, error in errors.items():
        print(f"{name:18}  {error:13.1e}  relative error with factors rounded to bfloat16")

    if config.out is not None:
        report = {
            "config": dataclasses.asdict(config) | {"out": str(config.out)},
            "versions": {"jax": jax.__version__, "torch": torch.__version__},
            "machine": {"processor": processor(), "threads": config.threads},
            "memory_kept": kept,
            "differences": difference,
            "first_seconds": first,
            "step_seconds": times,
            "product_gflops": rates,
            "bfloat16_errors": errors,
        }
        unfinished = config.out.with_suffix(".partial")
        unfinished.write_text(json.dumps(report, indent=1))
        os.replace(unfinished, config.out)


def large_products(precisions: tuple[str, ...]) -> dict[str, Step]:
    """One matrix product in each library and format; without AVX-512 bfloat16's take minutes."""
    products: dict[str, Step] = {}
    side = np.random.default_rng(1).normal(size=(2048, 2048)).astype(np.float32)
    multiply = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    for dtype in precisions:
        ours = jnp.asarray(side, dtype)
        theirs = torch.from_numpy(side).to(getattr(torch, dtype))
        products[f"jax dot {dtype}"] = partial(_wait_for, multiply, ours)
        products[f"torch dot {dtype}"] = partial(torch.mm, theirs, theirs)
    return products


def _wait_for(function: Callable[..., Any], *arguments: Any) -> None:
    jax.block_until_ready(function(*arguments))


def rounding_errors() -> dict[str, float]:
    """What rounding the factors of its products to bfloat16 does to a convolution's output.

    Taken as it stands, and in the tiles that ours takes in float32: their transforms cancel large
    numbers, which is why ours multiplies in float32 for bfloat16 images too.
    """
    rng = np.random.default_rng(2)
    images = jnp.asarray(rng.normal(size=(8, 16, 16, 64)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 64, 64)), jnp.float32)

    def rounded(x: jax.Array) -> jax.Array:
        return x.astype(jnp.bfloat16).astype(jnp.float32)

    exact = convolution.library_convolve(images, kernel)
    products = convolution.multiply(
        rounded(convolution.transform_images(images)),
        rounded(convolution.transform_kernel(kernel)),
    )
    results = {
        "direct": convolution.library_convolve(rounded(images), rounded(kernel)),
        "in tiles": convolution.output_image(products, 16, 16),
    }
    return {
        name: float(jnp.linalg.norm(one - exact) / jnp.linalg.norm(exact))
        for name, one in results.items()
    }


# ---- ours --------------------------------------------------------------------------------------


def our_module(config: Config, dtype: str) -> nets.HashNetwork:
    """The network under DLBHC's head."""
    network = nets.NETWORKS[config.network]
    return network.build(bits=config.bits, classes=CLASSES, dtype=jnp.dtype(dtype))


@cache
def our_variables(config: Config) -> dict[str, Any]:
    """The same start for all."""
    shape = config.size, config.size, 3
    return initial_variables(our_module(config, "float32"), jax.random.key(0), shape)


def our_step(config: Config, dtype: str, images: np.ndarray, labels: np.ndarray) -> Step:
    """The step of jaxhash train, without augmentation."""
    optimizer = optax.sgd(config.learning_rate, MOMENTUM, nesterov=True)
    step = make_train_step(
        our_module(config, dtype),
        METHODS["dlbhc"],
        optimizer,
        lambda items: items,
        classes=CLASSES,
        steps=1,
    )
    compiled = jax.jit(step, donate_argnums=0)
    batch = Batch(jnp.asarray(images), jnp.asarray(labels, jnp.int32))
    # The step takes its state's memory over, so it gets a copy.
    state = initial_state(
        jax.tree.map(jnp.copy, our_variables(config)), optimizer, jax.random.key(0)
    )

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return run


def stock_step(config: Config, dtype: str, images: np.ndarray, labels: np.ndarray) -> Step:
    """The same with XLA's own convolution and pooling in place of ours."""
    with (
        mock.patch.object(resnet, "convolve", convolution.library_convolve),
        mock.patch.object(resnet, "convolve_and_pool", convolution.library_convolve_and_pool),
    ):
        step = our_step(config, dtype, images, labels)
        step()  # traced here, and then kept
    return step


# ---- PyTorch's ---------------------------------------------------------------------------------


class Block(nn.Module):
    """As `jaxhash.nets.resnet.Block`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) -> (n, width, h // 2, w // 2)."""
        x = gelu(self.norm1(functional.max_pool2d(self.conv1(x), 2)))
        return x + gelu(self.norm2(self.conv2(x)))


class Twin(nn.Module):
    """As `jaxhash.nets.resnet.Trunk` under DLBHC's head."""

    def __init__(self, widths: tuple[int, ...], bits: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2, bias=False)
        channels = (24, *widths)
        self.blocks = nn.ModuleList(map(Block, channels[:-1], channels[1:]))
        self.latent = nn.Linear(widths[-1], bits)
        self.classifier = nn.Linear(bits, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, h, w) -> logits (n, classes); the head in float32, as ours."""
        x = gelu(self.stem(functional.pad(x, (0, 1, 0, 1), mode="replicate")))
        for block in self.blocks:
            x = block(x)
        with torch.autocast("cpu", enabled=False):
            return self.classifier(torch.sigmoid(self.latent(x.float().amax((2, 3)))))


def gelu(x: torch.Tensor) -> torch.Tensor:
    """The tanh form, as ours."""
    return functional.gelu(x, approximate="tanh")


def twin(config: Config, params: dict[str, Any]) -> Twin:
    """The network with our parameters."""
    network = Twin(our_module(config, "float32").trunk.widths, config.bits)
    state = network.state_dict()
    state.update({name: torch.from_numpy(array) for name, array in as_torch(params).items()})
    network.load_state_dict(state)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.train()


def as_torch(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Our parameters, or gradients, under PyTorch's names and in its order of axes."""
    trunk, head = params["trunk"], params["head"]
    named = {"stem.weight": trunk["stem"]["kernel"].transpose(3, 2, 0, 1)}
    blocks = sorted(name for name in trunk if name.startswith("block"))
    for i, block in enumerate(blocks):
        for part, values in trunk[block].items():
            if "kernel" in values:
                named[f"blocks.{i}.{part}.weight"] = values["kernel"].transpose(3, 2, 0, 1)
            else:
                named[f"blocks.{i}.{part}.weight"] = values["scale"]
                named[f"blocks.{i}.{part}.bias"] = values["bias"]
    for part in ("latent", "classifier"):
        named[f"{part}.weight"] = head[part]["kernel"].T
        named[f"{part}.bias"] = head[part]["bias"]
    return {name: np.array(array, order="C") for name, array in named.items()}


def torch_images(images: np.ndarray) -> torch.Tensor:
    """(n, h, w, c) -> (n, c, h, w), channels last in memory."""
    moved = torch.from_numpy(images.transpose(0, 3, 1, 2))
    return moved.contiguous(memory_format=torch.channels_last)


def torch_step(config: Config, dtype: str, images: np.ndarray, labels: np.ndarray) -> Step:
    """PyTorch as its guides would have it: channels last, autocast for bfloat16."""
    network = twin(config, our_variables(config)["params"])
    optimizer = torch.optim.SGD(network.parameters(), config.learning_rate, MOMENTUM, nesterov=True)
    inputs, targets = torch_images(images), torch.from_numpy(labels)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = functional.cross_entropy(network(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


# ---- do they compute the same? -----------------------------------------------------------------


def compare(config: Config, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Differences of the loss and of each gradient in float32, as a share of its norm.

    Not entry by entry: where two outputs under a max-pool differ by a rounding step, the two
    libraries may send the gradient to different ones.
    """
    module, variables = our_module(config, "float32"), our_variables(config)

    @jax.jit
    def ours(params: Any) -> Any:
        def loss_of(params: Any) -> jax.Array:
            outputs, _ = nets.apply(
                module, {**variables, "params": params}, jnp.asarray(images), train=True
            )
            kernel = nets.classifier_kernel(params)
            targets = jnp.asarray(labels, jnp.int32)
            return METHODS["dlbhc"].loss(outputs, targets, kernel, classes=CLASSES)[0]

        return jax.value_and_grad(loss_of)(params)

    loss, gradients = ours(variables["params"])
    network = twin(config, variables["params"])
    expected = functional.cross_entropy(network(torch_images(images)), torch.from_numpy(labels))
    expected.backward()
    differences = {"loss": abs(float(loss) / expected.item() - 1)}
    theirs = {name: value.grad for name, value in network.named_parameters()}
    for name, gradient in as_torch(gradients).items():
        other = theirs[name]
        assert other is not None
        error = np.linalg.norm(gradient - other.numpy())
        differences[name] = float(error / np.linalg.norm(other.numpy()))
    return differences


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
