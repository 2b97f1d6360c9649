"""Check that packages import only the public modules of others, at most eight each.

A module of another package, a stage or a deployment imports only those. Tests and benchmarks may
look inside.

Example: python -m tools.check_faces
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOTS = ("tasks", "flows")
MOST = 8
"""The most modules that a package may show."""


def faces(root: Path) -> dict[str, tuple[str, ...] | None]:
    """The public modules of every package, by its dotted name; None where it names none.

    Args:
        root: the repository.
    """
    public: dict[str, tuple[str, ...] | None] = {}
    for top in ROOTS:
        for init in sorted((root / top).glob("*/__init__.py")):
            public[f"{top}.{init.parent.name}"] = _all(init)
    return public


def violations(root: Path) -> Iterator[str]:
    """What breaks the rule, one line each: faces that are missing, too wide or wrong, and imports
    that reach past one."""
    public = faces(root)
    for package, names in public.items():
        folder = root / package.replace(".", "/")
        if names is None:
            yield f"{package}: __init__.py has no __all__ that names its public modules"
            continue
        if len(names) > MOST:
            yield f"{package}: shows {len(names)} modules; expected at most {MOST}"
        for name in names:
            if not (folder / f"{name}.py").exists() and not (folder / name).is_dir():
                yield f"{package}: __all__ names {name}, which is not a module of it"
    for path in sorted(path for top in ROOTS for path in (root / top).rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for line, package, name in _imported(path, public):
            if not module.startswith(f"{package}.") and name not in (public[package] or ()):
                yield f"{path.relative_to(root)}:{line}: {package}.{name} is private to its package"


def _all(init: Path) -> tuple[str, ...] | None:
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return tuple(ast.literal_eval(node.value))
    return None


def _imported(path: Path, packages: object) -> Iterator[tuple[int, str, str]]:
    """Line, package and module of every import from inside a package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        parts = node.module.split(".")
        package = ".".join(parts[:2])
        if package not in packages:  # type: ignore[operator]
            continue
        names = [parts[2]] if len(parts) > 2 else [alias.name for alias in node.names]
        for name in names:
            yield node.lineno, package, name


def main() -> int:
    """Print what breaks the rule; the exit code says whether anything does."""
    broken = list(violations(Path()))
    print("\n".join(broken) or "every package shows at most eight modules, and nobody reaches past")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
