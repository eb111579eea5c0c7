"""Faults in a module's constants, put into modules that are imported already.

A constant (`CHUNK = 128`) stands in the module that sets it and in those that imported it by name,
and functions look it up when they run, so it can be exchanged there. Not so where a module reads it
while it is imported, for another constant, a default or a class: that was made of it as it was.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Constants:
    """Constants of a module that a fault changes.

    Attributes:
        module: that sets them, such as search.hamming.scan.
        names: of the constants.
        statement: that sets them, with the fault.
    """

    module: str
    names: frozenset[str]
    statement: ast.stmt

    def values(self, module: ModuleType) -> dict[str, object]:
        """What the fault makes of them in the module as it was imported."""
        scope = dict(vars(module))
        exec(compile(ast.Module([self.statement], []), self.module, "exec"), scope)
        return {name: scope[name] for name in self.names}

    def held(self, name: str, tree: ast.Module) -> bool:
        """Whether they stand in a module, of which this is the source, under their names."""
        return name == self.module or any(
            alias.name in self.names and alias.asname is None
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == self.module
            for alias in node.names
        )

    def reads(self, name: str, tree: ast.Module) -> Iterator[tuple[int, bool]]:
        """The lines of a module that read one of them, and whether in a function's body."""
        return _reads(tree, self.names, self.held(name, tree), late=False)


def changed(module: str, old: str, new: str) -> Constants | None:
    """The constants that a fault changes; None where it is in no statement that sets some.

    Args:
        module: its name, such as search.hamming.scan.
        old: its source.
        new: its source with the fault.

    Example:
        >>> changed("scan", "CHUNK = 128", "CHUNK = 127").values(ModuleType("scan"))
        {'CHUNK': 127}
    """
    pairs = zip(ast.parse(old).body, ast.parse(new).body, strict=True)
    [statement] = [after for before, after in pairs if ast.dump(before) != ast.dump(after)]
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return None
    stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    names = frozenset(node.id for node in stored if isinstance(node.ctx, ast.Store))
    return Constants(module, names, statement)


def _reads(
    node: ast.AST, names: frozenset[str], held: bool, late: bool
) -> Iterator[tuple[int, bool]]:
    if isinstance(node, ast.Attribute) and node.attr in names:
        yield node.lineno, late
    if isinstance(node, ast.Name) and held and node.id in names and isinstance(node.ctx, ast.Load):
        yield node.lineno, late
    for field, value in ast.iter_fields(node):
        body = isinstance(node, ast.FunctionDef | ast.Lambda) and field == "body"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _reads(child, names, held, late or body)
