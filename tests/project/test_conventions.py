"""House rules that a reader relies on: arrows between the parts, one list of errors, honest export lists."""

from __future__ import annotations

import ast
import inspect
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from foreshore import errors

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("cloud", "edge", "quantize", "reliability", "router")
MAY_IMPORT = {
    "kernel": set(),
    "edge": {"kernel"},
    "cloud": {"kernel"},
    "reliability": {"kernel"},
    "starter": {"kernel"},
    "quantize": {"kernel", "edge", "starter"},
    "router": {"kernel", "edge", "cloud", "reliability"},
    "cli": {"kernel", *PARTS, "starter"},
}


def modules() -> list[str]:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = []
    for path in map(Path, tracked.stdout.splitlines()):
        parts = path.parts[2:] if path.parts[:2] == ("src", "foreshore") else path.parts
        if path.parts[0] in PARTS or path.parts[:2] == ("src", "foreshore"):
            names.append(".".join(("foreshore", *parts)).removesuffix(".py").removesuffix(".__init__"))
    return [name for name in names if not name.endswith("__main__")]


def part_of(module: str) -> str:
    root, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    return root if root != "foreshore" else first if first in MAY_IMPORT else "kernel"


def imported(module: str) -> set[str]:
    """Our modules that `module` imports, inside functions too; those for type checkers alone left out."""
    source = inspect.getsource(import_module(module))
    found: set[str] = set()
    for node in ast.walk(_without_type_checking(ast.parse(source))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{name.name}" for name in node.names if node.module == "foreshore")
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return {name for name in found if name.startswith(("foreshore.", "benchmarks"))}


def _without_type_checking(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


@pytest.mark.parametrize("module", modules())
def test_arrows_point_one_way(module: str) -> None:
    """And nobody imports the benchmarks."""
    own = part_of(module)
    others = {part_of(name) for name in imported(module)} - {own}
    assert others <= MAY_IMPORT[own], f"{module} imports {sorted(others - MAY_IMPORT[own])}"


@pytest.mark.parametrize("module", modules())
def test_an_export_list_names_what_is_there(module: str) -> None:
    loaded = import_module(module)
    exported = getattr(loaded, "__all__", [])
    assert exported == sorted(exported, key=lambda name: (not name.isupper(), not name[:1].isupper(), name))
    assert not [name for name in exported if not hasattr(loaded, name)]


def test_the_tree_of_errors_is_whole() -> None:
    assert errors.__doc__
    for name in errors.__all__:
        found = getattr(errors, name)
        assert f" {name} " in f" {errors.__doc__} ".replace("\n", " "), name
        assert issubclass(found, errors.ForeshoreError)
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)
