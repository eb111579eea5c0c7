"""What the vector registers of the processor that numba compiles for can do."""

import functools
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.registry import cpu_target

from search.kernels.shared import PLAIN


class Registers(NamedTuple):
    """The vector registers of a processor.

    size: bytes in one. number: how many a kernel is to reckon with. by_table: whether the bits of
    bytes are counted by looking up half bytes in tables, because no instruction counts them.
    """

    size: int
    number: int
    by_table: bool


@functools.cache
def registers() -> Registers:
    """Those of the processor that numba compiles for, which its settings may have changed.

    Read from what LLVM makes of counting the bits of 64 bytes there, in some milliseconds.

    Example:
        >>> registers().size in (16, 32, 64)
        True
    """
    if PLAIN:
        return Registers(64, 32, False)
    triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    module, vector = ir.Module(), ir.VectorType(ir.IntType(8), 64)
    module.triple = triple
    counting = ir.Function(module, ir.FunctionType(vector, [vector]), "llvm.ctpop.v64i8")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), "count")
    builder = ir.IRBuilder(function.append_basic_block())
    value = builder.load(function.args[0], typ=vector, align=1)
    builder.store(builder.call(counting, [value]), function.args[0], align=1)
    builder.ret_void()
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=processor, features=features, opt=3
    )
    code = machine.emit_assembly(llvm.parse_assembly(str(module)))
    if "xmm" not in code and "ymm" not in code and "zmm" not in code:
        # Not x86: NEON counts bytes, others do as they can. NEON has 32, but with sums in 16 of
        # them a quarter of the loop's instructions copied sums to and fro, some to memory.
        return Registers(16, 16, False)
    size = 64 if "zmm" in code else 32 if "ymm" in code else 16
    return Registers(size, 32 if size == 64 else 16, "pshufb" in code)
