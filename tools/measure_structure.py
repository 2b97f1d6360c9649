"""Measure the structure of the code: modules, import floors, sizes, names used twice.

It reads text only, so it measures any revision: check it out into a folder and name that.

Example: python -m tools.measure_structure --root . --json
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PRODUCT = ("tasks", "flows")


def measure(root: Path) -> dict[str, Any]:
    """The figures of the product's packages below a folder.

    Args:
        root: a checkout of the repository.
    """
    trees = {
        ".".join(path.relative_to(root).with_suffix("").parts): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for top in PRODUCT
        for path in sorted((root / top).rglob("*.py"))
        if path.name != "__init__.py"
    }
    sizes = {
        module: len((root / (module.replace(".", "/") + ".py")).read_text().splitlines())
        for module in trees
    }
    folders: dict[str, int] = defaultdict(int)
    for module in trees:
        folders[module.rpartition(".")[0]] += 1
    functions = [(_lines(node), module, node.name) for module, node in _functions(trees)]
    classes = [(_lines(node), module, node.name) for module, node in _classes(trees)]
    owners = defaultdict(set)
    for _, module, name in classes:
        owners[name].add(module)
    longest_function, longest_class = max(functions), max(classes)
    return {
        "lines": sum(sizes.values()),
        "statements": sum(
            isinstance(node, ast.stmt) for tree in trees.values() for node in ast.walk(tree)
        ),
        "modules": len(trees),
        "modules_per_folder": dict(sorted(folders.items())),
        "longest_module": max((size, module) for module, size in sizes.items()),
        "import_floors": {top: _floors(trees, top) for top in PRODUCT},
        "longest_function": [longest_function[0], f"{longest_function[1]}.{longest_function[2]}"],
        "longest_class": [longest_class[0], f"{longest_class[1]}.{longest_class[2]}"],
        "class_names_defined_twice": sorted(
            name for name, modules in owners.items() if len(modules) > 1
        ),
        "module_names_used_twice": sorted(
            name
            for name in {module.rpartition(".")[2] for module in trees}
            if sum(module.rpartition(".")[2] == name for module in trees) > 1
        ),
        "lines_over_100": sum(
            len(line) > 100
            for module in trees
            for line in (root / (module.replace(".", "/") + ".py")).read_text().splitlines()
        ),
    }


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _functions(
    trees: Mapping[str, ast.Module],
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def _classes(trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, ast.ClassDef]]:
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield module, node


def _floors(trees: Mapping[str, ast.Module], top: str) -> int:
    """How many packages stand on top of each other: the longest chain of imports between them.

    A package is a folder of `top`, or a module of `top` itself; the chain ignores a package's
    imports of itself, and a cycle ends it.
    """
    below: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        if not module.startswith(f"{top}."):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(top):
                for alias in node.names:
                    target = f"{node.module}.{alias.name}"
                    below[_package(module)].add(_package(target))

    def height(package: str, above: frozenset[str]) -> int:
        nexts = below.get(package, set()) - above - {package}
        return 1 + max((height(name, above | {package}) for name in nexts), default=0)

    remembered = cache(lambda package: height(package, frozenset()))
    return max(remembered(package) for package in {_package(module) for module in trees})


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def main() -> None:
    """Print the figures of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, default=Path(), help="a checkout of the repository")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    figures = measure(options.root)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
