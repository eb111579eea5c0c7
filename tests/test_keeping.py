"""Compiled kernels are kept on disk, and searching does not depend on it."""

import ast
import errno
import importlib.util
import logging
import os
from pathlib import Path

import numba
import pytest
from numba.core import caching

from search.kernels import keeping

REPOSITORY = Path(__file__).resolve().parent.parent
KERNELS = REPOSITORY / "search" / "kernels"

# A kernel that calls another one, as those of the search do.
MODULE = """
from search.kernels.compiling import compiled

@compiled
def twice(x):
    return 2 * x

@compiled
def twice_and_one(x):
    return twice(x) + 1
"""


@pytest.fixture
def load(tmp_path, monkeypatch, caplog):
    """A function that defines the kernels as a new process would; `load.folder` holds them."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "some_kernels.py").write_text(MODULE)

    def load():
        monkeypatch.setattr(keeping, "_said", set())
        caplog.clear()
        spec = importlib.util.spec_from_file_location("some_kernels", tmp_path / "some_kernels.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    load.folder = tmp_path / "cache"
    return load


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hits(kernel):
    return sum(kernel.stats.cache_hits.values())


def warned(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def emptied(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def garbled(path):
    """One byte in the middle, where the machine code is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


def foreign(path):
    path.write_bytes(b"not a kernel")


def a_folder(path):
    path.unlink()
    path.mkdir()


def test_kernels_come_from_disk(load, caplog):
    assert load().twice_and_one(20) == 41
    module = load()
    assert module.twice_and_one(20) == 41
    assert hits(module.twice_and_one) == 1
    assert module.twice_and_one(0.5) == 2
    assert not warned(caplog)


@pytest.mark.parametrize("damage", [emptied, cut, garbled, foreign])
def test_damaged_files_are_said_once_and_replaced(damage, load, caplog):
    load().twice_and_one(20)
    assert files(load.folder)
    for path in files(load.folder):
        damage(path)
    assert load().twice_and_one(20) == 41
    (message,) = warned(caplog)
    assert "cannot be read from disk" in message
    assert str(load.folder) in message
    module = load()
    assert module.twice_and_one(20) == 41
    assert hits(module.twice_and_one) == 1
    assert not warned(caplog)


def test_what_cannot_be_replaced_is_said_once_of_each_kind(load, caplog):
    load().twice_and_one(20)
    for path in files(load.folder):
        a_folder(path)
    assert load().twice_and_one(20) == 41
    read, kept = warned(caplog)
    assert "cannot be read from disk" in read
    assert "NUMBA_CACHE_DIR" in kept


def test_a_full_disk(load, caplog, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    module = load()
    assert module.twice_and_one(20) == 41
    assert module.twice_and_one(0.5) == 2
    (message,) = warned(caplog)
    assert "No space left on device" in message
    assert not files(load.folder)


def test_no_folder_to_write(load, caplog, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    module = load()
    assert not warned(caplog)  # the package is imported, nothing is compiled yet
    assert module.twice_and_one(20) == 41
    (message,) = warned(caplog)
    assert "some seconds in every process" in message


def test_a_change_in_any_kernel_module_makes_new_ones(load, caplog, monkeypatch):
    load().twice_and_one(20)
    monkeypatch.setattr(keeping, "_sources", lambda folder: "another state of the folder")
    module = load()
    assert module.twice_and_one(20) == 41
    assert hits(module.twice_and_one) == 0
    assert not warned(caplog)


def test_the_state_of_the_folders_is_that_of_every_file(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(keeping, "__file__", str(tmp_path / "here" / "keeping.py"))
    seen = set()
    for name, text in [
        ("here/a.py", "1"),
        ("there/b.py", "1"),
        ("here/a.py", "2"),
        ("there/b.py", "2"),
    ]:
        (tmp_path / name).write_text(text)
        seen.add(keeping._sources.__wrapped__(tmp_path / "there"))
    assert len(seen) == 4


def test_another_signatures_file_is_not_taken(load, monkeypatch, tmp_path):
    """Whatever a file is called, what it holds says what it is for."""
    monkeypatch.setattr(keeping._Files, "_path", lambda self, key: tmp_path / self._name)
    assert load().twice(20) == 40
    assert load().twice(0.25) == 0.5


def test_networks_kernels_take_functions_from_their_folder_and_from_kernels():
    """As below, for those that XLA calls."""
    found = 0
    for path in (REPOSITORY / "jaxhash" / "nets" / "cpu").glob("*.py"):
        text = path.read_text()
        if "import compiled" not in text:
            continue
        found += 1
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(("search", "jaxhash")):
                if [each.name for each in node.names] == ["Lock"]:
                    continue  # no part of a kernel
                assert node.module.startswith(("search.kernels.", "jaxhash.nets.cpu")), path
    assert found == 3


def test_kernels_take_functions_from_kernels_alone():
    """A change elsewhere would not make kernels on disk out of date."""
    for path in KERNELS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("search"):
                if [each.name for each in node.names] == ["Lock"]:
                    continue  # for a twin in plain Python, no part of a kernel
                assert node.module.startswith("search.kernels."), path


def test_no_pointer_says_what_it_points_to():
    """llvmlite's typed pointers are to be removed: loads and addresses name their types."""
    generators = [
        *KERNELS.glob("*.py"),
        *(REPOSITORY / "scripts").glob("*"),
    ]
    loads = 0
    for path in generators:
        if path.suffix != ".py" or "llvmlite" not in path.read_text():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            where, given = f"{path}:{node.lineno}", {each.arg for each in node.keywords}
            assert node.func.attr != "as_pointer", where
            assert node.func.attr != "PointerType" or not node.args, where
            if ast.unparse(node.func.value) == "builder":
                loads += node.func.attr == "load"
                assert node.func.attr != "load" or "typ" in given, where
                assert node.func.attr != "gep" or "source_etype" in given, where
    assert loads > 5


def test_no_kernel_is_compiled_once_more_for_a_literal():
    """numba gives a literal, and a variable that begins as one, a type of its own."""
    kernels = [
        node
        for path in KERNELS.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(one).startswith("compiled") for one in node.decorator_list)
    ]
    names, calls = {kernel.name for kernel in kernels}, 0
    for kernel in kernels:
        literals: set[str] = set()
        for node in ast.walk(kernel):
            if isinstance(node, ast.Assign):
                literals |= {name for to in node.targets for name in _literal(to, node.value)}
        for node in ast.walk(kernel):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                calls += 1
                given = {ast.unparse(each) for each in node.args if isinstance(each, ast.Name)}
                assert not given & literals, f"{kernel.name}: {ast.unparse(node)}"
                assert not any(isinstance(each, ast.Constant) for each in node.args), (
                    f"{kernel.name}: {ast.unparse(node)}"
                )
    assert calls > 30


def _literal(target, value):
    """The names that an assignment gives a whole number."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=True)
        return {name for pair in pairs for name in _literal(*pair)}
    whole = isinstance(value, ast.Constant) and type(value.value) is int
    return {target.id} if whole and isinstance(target, ast.Name) else set()
