"""What the product imports is what pyproject.toml declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = {"tasks", "flows"}
LOADED_BY_NAME = {"dvc-s3", "psycopg"}
"""DVC and SQLAlchemy load these themselves."""


def plain(name: str) -> str:
    """A distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=\\[; ]", name)[0]).lower()


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {plain(name) for name in project["dependencies"]}


def imported() -> dict[str, set[str]]:
    """The distributions that may be meant by each foreign module that the product imports."""
    modules = set()
    for top in OWN:
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    modules.add(node.module.partition(".")[0])
    installed = packages_distributions()
    foreign = modules - set(sys.stdlib_module_names) - OWN
    return {name: {plain(one) for one in installed.get(name, ())} for name in sorted(foreign)}


def test_every_package_that_the_product_imports_is_declared() -> None:
    missing = [name for name, candidates in imported().items() if not candidates & declared()]
    assert missing == []


def test_every_declared_package_is_imported_or_loaded_by_name() -> None:
    assert declared() - set().union(*imported().values()) == LOADED_BY_NAME
