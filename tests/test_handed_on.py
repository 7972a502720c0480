"""No parameter is handed on untouched by more than three functions, one after the other: it is bundled or bound."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FOLDERS = ("ge2e_transforms", "pipeline", "examples/train_ge2e")
MOST = 3


class Function(NamedTuple):
    """A function with the class it belongs to, '' for none."""

    owner: str
    node: ast.FunctionDef

    @property
    def parameters(self) -> list[str]:
        given = self.node.args
        names = [entry.arg for entry in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        return names[1:] if names[:1] in (["self"], ["cls"]) else names


Functions = dict[str, list[Function]]


def functions_of(sources: Iterable[str]) -> Functions:
    """By the name they are called by: a class is called where its `__init__` is."""
    found: Functions = defaultdict(list)

    def visit(node: ast.AST, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                found[owner if child.name == "__init__" else child.name].append(Function(owner, child))
            visit(child, child.name if isinstance(child, ast.ClassDef) else owner)

    for source in sources:
        visit(ast.parse(source), "")
    return found


@cache
def nodes_of(function: Function) -> list[ast.AST]:
    return list(ast.walk(function.node))


@cache
def handed_to(function: Function, parameter: str) -> tuple[str, int | str] | None:
    """What is called with the parameter, and as which argument, if that is the one use of it."""
    nodes = nodes_of(function)
    names = [node for node in nodes if isinstance(node, ast.Name) and node.id == parameter]
    if len(names) != 1:
        return None
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        called = ast.unparse(call.func).rpartition(".")[2]
        if names[0] in call.args:
            return called, call.args.index(names[0])
        for keyword in call.keywords:
            if keyword.value is names[0] and keyword.arg:
                return called, keyword.arg
    return None


def way(functions: Functions, function: Function, parameter: str) -> Iterator[str]:
    """Names of the functions, one after the other, that do nothing with a parameter but to hand it on."""
    seen: list[tuple[ast.AST, str]] = []
    while (function.node, parameter) not in seen and (handed := handed_to(function, parameter)):
        seen.append((function.node, parameter))
        yield function.node.name
        called, argument = handed
        there = functions.get(called, [])
        names = there[0].parameters if len(there) == 1 else []  # which of several is called, is not known
        if isinstance(argument, int):
            argument = names[argument] if argument < len(names) else ""
        if argument not in names:
            return
        function, parameter = there[0], argument


def too_long(functions: Functions) -> list[list[str]]:
    every = [function for group in functions.values() for function in group]
    ways = [list(way(functions, function, name)) for function in every for name in function.parameters]
    return [passed for passed in ways if len(passed) > MOST]


def test_what_is_looked_for() -> None:
    chain = "def a(x): b(x)\ndef b(y): return c(1, z=y)\nclass C:\n  def c(self, n, z): d(z)\ndef d(u): e(u)\n"
    assert too_long(functions_of([chain, "def e(v): return v + 1"])) == [["a", "b", "c", "d"]]
    assert too_long(functions_of([chain.replace("e(u)", "e(u + 1)"), "def e(v): return v"])) == []
    assert too_long(functions_of(["def a(x): a(x)"])) == []


def test_no_parameter_is_handed_through_more_than_three_functions() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    functions = functions_of(path.read_text(encoding="utf-8") for path in paths)
    assert len(functions) > 1000
    assert too_long(functions) == []
