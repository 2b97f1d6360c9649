"""The catalogues of the reports' languages: messages gathered from templates and Python code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babel.messages import Catalog, Message

TEMPLATES = Path("reports/templates")
MODULES = Path("tasks")
LOCALES = Path("reports/templates/locales")
SAYING = {"say", "mark"}
"""Functions of `tasks.common.language` whose first argument is a message."""
TEXTS = {".j2", ".css", ".js"}
"""What is a template."""
METHODS = {"gettext"}
"""Methods of `Language` whose first argument is a message."""
OPTIONS = {"trim_blocks": "true", "lstrip_blocks": "true", "trimmed": "true", "silent": "false"}


def all_messages() -> Catalog:
    """Every message of the source, without translations."""
    from babel.messages import Catalog

    catalogue = Catalog()
    for path, message, plural in sorted((*in_templates(), *in_modules()), key=lambda use: use[0]):
        catalogue.add((message, plural) if plural else message, locations=[(path, 0)])
    return catalogue


def in_templates() -> Iterator[tuple[str, str, str]]:
    """File, message and plural, if any, of every use in a template."""
    from jinja2.ext import babel_extract

    for path in sorted(path for path in TEMPLATES.rglob("*") if path.suffix in TEXTS):
        with path.open("rb") as file:
            for _, _, message, _ in babel_extract(file, ("_", "gettext", "ngettext"), (), OPTIONS):
                singular, plural = (
                    (message[0], message[1]) if isinstance(message, tuple) else (message, "")
                )
                yield path.as_posix(), str(singular), str(plural or "")


def in_modules() -> Iterator[tuple[str, str, str]]:
    """File and message of every use in a module."""
    for path in sorted(MODULES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _says(node.func) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield path.as_posix(), first.value, ""


def _says(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in SAYING
    return isinstance(function, ast.Attribute) and function.attr in METHODS


def read(path: Path) -> Catalog:
    """A catalogue."""
    from babel.messages import pofile

    with path.open("rb") as file:
        return pofile.read_po(file, abort_invalid=True)


def translations(message: Message) -> tuple[str, ...]:
    """What a message is in the catalogue's language, one for each form of the plural."""
    return (message.string,) if isinstance(message.string, str) else tuple(message.string or ())


def updated_text(path: Path) -> str:
    """A catalogue's text with its head and the messages of today: new ones empty, those no longer
    said left out."""
    from babel.messages import Catalog, pofile

    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    previous, catalogue = read(path), Catalog(locale=path.stem)
    for message in all_messages():
        if message.id:
            before = previous.get(message.id)
            catalogue.add(
                message.id, string=before.string if before else "", locations=message.locations
            )
    target = BytesIO()
    pofile.write_po(
        target, catalogue, width=120, omit_header=True, include_lineno=False, sort_output=True
    )
    return f"{head}\n\n{target.getvalue().decode()}"
