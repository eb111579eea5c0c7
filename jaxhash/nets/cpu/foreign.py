"""Functions compiled by numba that XLA calls on CPU, and that share its threads.

XLA hands a call frame to a function of its C interface: see `xla/ffi/api/c_api.h` in the folder
that `jax.ffi.include_dir()` names. Frames are read here word by word, as version 0.3 of the
interface lays them out; `register` tells XLA so, which refuses what it does not know.
"""

import ctypes
from typing import Any

import jax
import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from search.kernels.compiling import compiled

VERSION = 3 << 32 | 0  # minor and major version of the interface, side by side in one word
RANK = 4  # dimensions kept of each array; those that it lacks are 1
ARRAY = 1 + RANK  # words of an array: its address, and its dimensions
# Words of a task, which threads share. Its arrays follow: the operands, then the results.
CLAIMED, FINISHED, HOLDERS, PIECES, NUMBER = range(5)
SCRATCH = 5  # from here on, what XLA's own functions are asked with
ARRAYS = 12

_WORD = ir.IntType(64)
_FUNCTION = ir.FunctionType(_WORD, [_WORD])


def _intrinsic(emit: Any, result: Any, *operands: Any) -> Any:
    """An intrinsic of words, from what makes its LLVM."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = emit(builder, *arguments)
        return context.get_dummy_value() if made is None else made

    return result(*operands), generate


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType())


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """The 64-bit word at an address."""
    return _intrinsic(
        lambda builder, address: builder.load(_pointer(builder, address), typ=_WORD),
        types.int64, types.int64,
    )  # fmt: skip


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Put a 64-bit word at an address."""

    def emit(builder: Any, address: Any, value: Any) -> None:
        builder.store(value, _pointer(builder, address))

    return _intrinsic(emit, types.void, types.int64, types.int64)


@intrinsic
def add_to(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the word at an address, whole beside other threads; returns what it was."""

    def emit(builder: Any, address: Any, value: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, address), value, "acq_rel")

    return _intrinsic(emit, types.int64, types.int64, types.int64)


@intrinsic
def call(typingctx: Any, function: Any, argument: Any) -> Any:
    """Call the C function at an address, which takes a word and returns one."""

    def emit(builder: Any, function: Any, argument: Any) -> Any:
        return builder.call(builder.inttoptr(function, _FUNCTION.as_pointer()), [argument])

    return _intrinsic(emit, types.int64, types.int64, types.int64)


@intrinsic(prefer_literal=True)
def symbol(typingctx: Any, name: Any) -> Any:
    """The address of a C function by its name: one of the C library, or `publish`ed."""

    def emit(builder: Any, _: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, _FUNCTION, name.literal_value)
        return builder.ptrtoint(function, _WORD)

    return _intrinsic(emit, types.int64, name)


@compiled
def answered(frame):  # type: ignore[no-untyped-def]
    """Whether a call frame only asked for the interface's version, which is then told."""
    asked = load(frame + 8)
    if asked:
        about = load(asked + 24)
        store(about + 24, VERSION)
    return asked != 0


@compiled
def task_of(frame):  # type: ignore[no-untyped-def]
    """A new task of one piece, with a call frame's arrays and number, held by one thread."""
    operands, results = load(frame + 56), load(frame + 96)
    task = call(symbol("malloc"), 8 * (ARRAYS + ARRAY * (operands + results)))
    store(task + 8 * CLAIMED, 0)
    store(task + 8 * FINISHED, 0)
    store(task + 8 * HOLDERS, 1)
    store(task + 8 * PIECES, 1)
    store(task + 8 * NUMBER, load(load(load(load(frame + 160)) + 8)))
    for place in range(operands + results):
        if place < operands:
            buffer = load(load(frame + 72) + 8 * place)
        else:
            buffer = load(load(frame + 112) + 8 * (place - operands))
        rank, sizes = load(buffer + 32), load(buffer + 40)
        at = task + 8 * (ARRAYS + ARRAY * place)
        store(at, load(buffer + 24))
        for axis in range(RANK):
            store(at + 8 * (1 + axis), load(sizes + 8 * axis) if axis < rank else 1)
    return task


@compiled
def asked(frame, function, task, size, first, second):  # type: ignore[no-untyped-def]
    """Whether a function of XLA's, of which the frame knows the address, did what it was asked."""
    api, scratch = load(frame + 16), task + 8 * SCRATCH
    store(scratch, size)
    store(scratch + 8, 0)
    store(scratch + 16, load(frame + 24))
    store(scratch + 24, first)
    store(scratch + 32, second)
    error = call(load(api + function), scratch)
    if error:
        store(scratch, 24)
        store(scratch + 16, error)
        call(load(api + 64), scratch)
    return error == 0


@compiled
def divide(frame, task, most, function):  # type: ignore[no-untyped-def]
    """Divide a task into `most` pieces or fewer; XLA's other threads call `function` with it.

    Each of them holds the task until it lets go. It may be late, and find no piece left.
    """
    threads = task + 8 * (SCRATCH + 5)
    store(threads, 1)
    if most < 2 or not asked(frame, 144, task, 32, threads, 0) or load(threads) < 2:
        return
    # More pieces than threads, as one of them may be at something else.
    store(task + 8 * PIECES, min(most, 4 * load(threads)))
    for _ in range(min(most, load(threads)) - 1):
        add_to(task + 8 * HOLDERS, 1)
        if not asked(frame, 136, task, 40, function, task):
            add_to(task + 8 * HOLDERS, -1)
            return


@compiled
def claim(task):  # type: ignore[no-untyped-def]
    """The number of a piece that no other thread has; beyond the last, none is left."""
    return add_to(task + 8 * CLAIMED, 1)


@compiled
def finish(task):  # type: ignore[no-untyped-def]
    """Say that a claimed piece is done."""
    add_to(task + 8 * FINISHED, 1)


@compiled
def await_others(task):  # type: ignore[no-untyped-def]
    """Wait until every piece is done. Each is in the hands of a thread that runs."""
    while add_to(task + 8 * FINISHED, 0) < load(task + 8 * PIECES):
        call(symbol("sched_yield"), 0)


@compiled
def let_go(task):  # type: ignore[no-untyped-def]
    """Hold the task no more; the last thread that did frees it."""
    if add_to(task + 8 * HOLDERS, -1) == 1:
        call(symbol("free"), task)


def publish(name: str, kernel: Any) -> None:
    """Let `symbol` know a compiled function of one word, that returns one, by a name."""
    llvm.add_symbol(name, address_of(kernel))


def address_of(kernel: Any) -> int:
    """Where the C function is that calls a compiled one, which takes a word and returns one."""
    word = types.int64
    kernel.compile((word,))
    made = kernel.overloads[(word,)]
    return made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name)


def register(name: str, kernel: Any) -> None:
    """Make a compiled function known to XLA on CPU, which calls it with call frames.

    Raises:
        jax.errors.JaxRuntimeError: XLA does not know this version of the interface.
    """
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address_of(kernel))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
