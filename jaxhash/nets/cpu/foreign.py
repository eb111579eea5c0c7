"""Functions compiled by numba that XLA calls on CPU, and that share its threads.

XLA hands a call frame to a function of its C interface: see `xla/ffi/api/c_api.h` in the folder
that `jax.ffi.include_dir()` names. Frames are read here word by word, as version 0.3 of the
interface lays them out; `register` tells XLA so, which refuses what it does not know.
"""

import ctypes
import logging
import os
from collections.abc import Sequence
from typing import Any

import jax
import llvmlite.binding as llvm
import numba.extending
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from search.kernels.compiling import compiled
from search.kernels.shared import PLAIN
from search.threads import Lock

# Its result is called without the first argument, of which numba's own types know nothing.
intrinsic: Any = numba.extending.intrinsic
# Small functions that become part of those that call them, and are not compiled for themselves.
inlined: Any = numba.njit(inline="always")

METADATA = 1  # the kind of a frame's extension that asks for the version
VERSION = 3 << 32 | 0  # minor and major version of the interface, side by side in one word
RANK = 4  # dimensions kept of each array; those that it lacks are 1
ARRAY = 1 + RANK  # words of an array: its address, and its dimensions
# Words of a task, which threads share. Its arrays follow: the operands, then the results.
CLAIMED, FINISHED, HOLDERS, PIECES, NUMBER, ARRAYS = range(6)
# Where XLA's functions are in its table, in bytes.
CREATE, DESTROY, SCHEDULE, THREADS = 48, 64, 136, 144
PIECE = 30_000  # numbers of the first operand that are worth another thread

_NO_MEMORY = ctypes.create_string_buffer(b"no memory is left for a layer")
_log = logging.getLogger("jaxhash")
_lock = Lock()
_offered: dict[str, bool] = {}
_tables: list[Any] = []  # kept, as compiled functions read them
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
        # llvmlite calls only what has the type of a function, or points to one by its type.
        return builder.call(builder.inttoptr(function, _FUNCTION.as_pointer()), [argument])

    return _intrinsic(emit, types.int64, types.int64, types.int64)


@intrinsic(prefer_literal=True)
def symbol(typingctx: Any, name: Any) -> Any:
    """The address of a function of the C library, or of a table that is `offered`, by its name."""

    def emit(builder: Any, _: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, _FUNCTION, name.literal_value)
        return builder.ptrtoint(function, _WORD)

    return _intrinsic(emit, types.int64, name)


@intrinsic
def stack(typingctx: Any) -> Any:
    """The address of five words of a function's own."""

    def emit(builder: Any) -> Any:
        return builder.ptrtoint(cgutils.alloca_once(builder, _WORD, size=5), _WORD)

    return _intrinsic(emit, types.int64)


@inlined
def array_of(task, place):  # type: ignore[no-untyped-def]
    """Where a task keeps an array: first the address of its numbers."""
    return task + 8 * (ARRAYS + ARRAY * place)


@inlined
def size_of(array, axis):  # type: ignore[no-untyped-def]
    """A dimension of an array that a task keeps."""
    return load(array + 8 * (1 + axis))


@compiled
def answered(frame):  # type: ignore[no-untyped-def]
    """Whether a call frame only asked for the interface's version, which is then told."""
    extension = load(frame + 8)
    if extension == 0 or load(extension + 8) & 0xFFFFFFFF != METADATA:
        return False
    store(load(extension + 24) + 24, VERSION)
    return True


@compiled
def task_of(frame):  # type: ignore[no-untyped-def]
    """A new task of one piece, with a call frame's arrays and number; 0: there is no memory.

    One thread holds it.
    """
    operands, results = load(frame + 56), load(frame + 96)
    task = call(symbol("malloc"), 8 * (ARRAYS + ARRAY * (operands + results)))
    if task == 0:
        return task
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
        array = array_of(task, place)
        store(array, load(buffer + 24))
        for axis in range(RANK):
            store(array + 8 * (1 + axis), load(sizes + 8 * axis) if axis < rank else 1)
    return task


@compiled
def asked(frame, function, size, first, second):  # type: ignore[no-untyped-def]
    """Whether a function of XLA's, which it gave the frame, did what it was asked for.

    `function`: its place in XLA's table, in bytes. `size`: of what it is asked with, `first` and
    `second` among that.
    """
    xla, words = load(frame + 16), stack()
    store(words, size)
    store(words + 8, 0)
    store(words + 16, load(frame + 24))
    store(words + 24, first)
    store(words + 32, second)
    error = call(load(xla + function), words)
    if error:
        store(words, 24)
        store(words + 16, error)
        call(load(xla + DESTROY), words)
    return error == 0


@compiled
def no_memory(frame):  # type: ignore[no-untyped-def]
    """An error for XLA to raise."""
    words = stack()
    store(words, 28)
    store(words + 8, 0)
    store(words + 16, symbol("jaxhash_no_memory"))
    store(words + 24, 8)
    return call(load(load(frame + 16) + CREATE), words)


@compiled
def divide(frame, task, most, function):  # type: ignore[no-untyped-def]
    """Divide a task into `most` pieces or fewer; XLA's other threads call `function` with it.

    Each of them holds the task until it lets go. It may be late, and find no piece left.
    """
    threads = stack()
    store(threads, 1)
    if most < 2 or not asked(frame, THREADS, 32, threads, 0) or load(threads) < 2:
        return
    # More pieces than threads, as one of them may be at something else.
    store(task + 8 * PIECES, min(most, 4 * load(threads)))
    for _ in range(min(most, load(threads)) - 1):
        add_to(task + 8 * HOLDERS, 1)
        if not asked(frame, SCHEDULE, 40, function, task):
            add_to(task + 8 * HOLDERS, -1)
            return


@compiled
def claim(task, units):  # type: ignore[no-untyped-def]
    """A piece that no other thread has, of so many units in all: those from one up to another.

    (-1, -1) where no piece is left.
    """
    piece, pieces = add_to(task + 8 * CLAIMED, 1), load(task + 8 * PIECES)
    if piece >= pieces:
        return -1, -1
    return units * piece // pieces, units * (piece + 1) // pieces


@compiled
def finish(task):  # type: ignore[no-untyped-def]
    """Say that a claimed piece is done."""
    add_to(task + 8 * FINISHED, 1)


@compiled
def let_go(task):  # type: ignore[no-untyped-def]
    """Hold a task no more; the last thread that did frees it."""
    if add_to(task + 8 * HOLDERS, -1) == 1:
        call(symbol("free"), task)


@compiled
def handled(frame, table):  # type: ignore[no-untyped-def]
    """Do what XLA asks for by a call frame, with a function of a table; 0, or XLA's error.

    `table`: the address of those that are `offered`; the frame's number says which. It is called
    with a task, claims its pieces until none is left, and lets it go.
    """
    if answered(frame):
        return 0
    task = task_of(frame)
    if task == 0:
        return no_memory(frame)
    function = load(table + 8 * load(task + 8 * NUMBER))
    numbers = 1
    for axis in range(RANK):
        numbers *= size_of(array_of(task, 0), axis)
    divide(frame, task, numbers // PIECE, function)
    add_to(task + 8 * HOLDERS, 1)
    call(function, task)
    while add_to(task + 8 * FINISHED, 0) < load(task + 8 * PIECES):
        # The last pieces are in the hands of other threads, which run.
        call(symbol("sched_yield"), 0)
    let_go(task)
    return 0


def address_of(kernel: Any) -> int:
    """Where the C function is that calls a compiled one, which takes a word and returns one."""
    word = types.int64
    kernel.compile((word,))
    made = kernel.overloads[(word,)]
    found: int = made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name)
    return found


def offered(name: str, handle: Any, kernels: Sequence[Any]) -> bool:
    """Let XLA call compiled functions on CPU: `jax.ffi.ffi_call(name, ...)`, by their number.

    The first time, they are compiled or read from disk. Whether that was possible: it is not on
    Windows, which has other functions than are taken of the C library, nor where numba is told not
    to compile or XLA does not know this version of its interface.

    Args:
        name: of XLA's target, and of the table of the functions, for `symbol`.
        handle: a compiled function of a call frame that returns `handled(frame, symbol(name))`.
        kernels: compiled functions of a task, which return 0.
    """
    with _lock.held():
        if name not in _offered:
            _offered[name] = _offer(name, handle, kernels)
        return _offered[name]


def _offer(name: str, handle: Any, kernels: Sequence[Any]) -> bool:
    if PLAIN or not hasattr(os, "sched_yield"):
        return False
    try:
        table = (ctypes.c_int64 * len(kernels))(*map(address_of, kernels))
        llvm.add_symbol(name, ctypes.addressof(table))
        llvm.add_symbol("jaxhash_no_memory", ctypes.addressof(_NO_MEMORY))
        function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address_of(handle))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    except Exception as failure:  # whatever it is, XLA has slower ways of its own
        _log.warning("%s: networks on CPU are slower than they could be: %s", name, failure)
        return False
    _tables.append(table)
    return True


def usable(array: jax.Array) -> bool:
    """Whether what is offered can be called with an array: float32, and one device, a CPU."""
    alone = jax.device_count() == 1 and jax.default_backend() == "cpu"
    return alone and array.dtype == np.float32
