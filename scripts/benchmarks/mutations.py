"""Small faults for a Python module: each mutant is its source with one expression or line changed.

Docstrings, annotations, decorators, strings and what an error says are left alone.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "maximum": "minimum",
}


@dataclass(frozen=True)
class Mutant:
    """A module with one fault.

    Attributes:
        line: where it is, from 1.
        where: the function or class that it is in, dotted; "" for the module itself.
        old: the line as it was, without the space around it.
        new: the line as it is now.
        source: the whole module with the fault.
    """

    line: int
    where: str
    old: str
    new: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module, in the order of its lines.

    Example:
        >>> [mutant.new for mutant in mutants("x = a < b")]
        ['x = a <= b']
    """
    starts = [0]
    encoded = source.encode()
    for line in encoded.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = source.splitlines()
    seen = {source}
    for where, node, other in sorted(_changes(source), key=lambda each: _place(each[1])):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
        text = other if isinstance(other, str) else ast.unparse(other)
        if isinstance(other, ast.expr) and not isinstance(other, ast.Constant | ast.Name):
            text = f"({text})"
        changed = (encoded[:first] + text.encode() + encoded[last:]).decode()
        if changed in seen:
            continue
        seen.add(changed)
        at = node.lineno - 1
        new = changed.splitlines()[at].strip()
        yield Mutant(node.lineno, where, lines[at].strip(), new, changed)


def _place(node: ast.stmt | ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


Change = tuple[str, ast.stmt | ast.expr, ast.expr | str]


def _changes(source: str) -> Iterator[Change]:
    """Where something can be changed, what, and what takes its place."""
    yield from _inside(ast.parse(source), "")


def _inside(node: ast.AST, where: str) -> Iterator[Change]:
    """The changes of a node and of all that it holds."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.ImportFrom | ast.Import):
        if isinstance(node, ast.Raise):
            yield where, node, "pass"
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".lstrip(".")
    if isinstance(node, ast.expr):
        yield from ((where, node, other) for other in _expressions(node))
    elif isinstance(node, ast.stmt):
        yield from ((where, *change) for change in _statements(node))
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _inside(child, where)


def _statements(node: ast.stmt) -> Iterator[tuple[ast.stmt | ast.expr, ast.expr | str]]:
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    place = node.targets[0] if isinstance(node, ast.Assign) else None
    if (
        called
        or isinstance(node, ast.AugAssign)
        or isinstance(place, ast.Attribute | ast.Subscript)
    ):
        yield node, "pass"
    elif isinstance(node, ast.Continue):
        yield node, "break"
    elif isinstance(node, ast.Break):
        yield node, "continue"
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield node.value, ast.Constant(None)
    elif isinstance(node, ast.If | ast.While):
        yield node.test, ast.Constant(False)
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        other = ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)
        yield node, ast.unparse(ast.fix_missing_locations(other))


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            operators = [*node.ops[:at], COMPARISONS[type(operator)](), *node.ops[at + 1 :]]
            yield ast.Compare(node.left, operators, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(other, node.values)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)
    elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield ast.Name(NAMES[node.id])
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield ast.Attribute(node.value, NAMES[node.attr], node.ctx)
    elif isinstance(node, ast.IfExp):
        yield node.orelse
