"""Write the generated files, or with `--check` fail if one is out of date."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

from flows.workspace import layout
from tasks.common import files, settings, stage_cli
from tasks.common.errors import WorkspaceError
from tasks.reporting import evidence_schema
from tools import gettext_catalogues

ARCHITECTURE = Path("docs/architecture.md")


def main(check: bool = False) -> None:
    """Write params.yaml for the demo, what is generated in docs/, and the catalogues' messages, or
    check them.

    Example: python -m tools.generate_docs --check
    """
    pages = {
        Path("params.yaml"): layout.demo_settings_yaml(),
        Path("docs/settings.md"): settings_page(),
        Path("docs/cli.md"): command_page(),
        ARCHITECTURE: architecture_page(),
        evidence_schema.SCHEMA: json.dumps(
            evidence_schema.schema(), indent=2, sort_keys=True, ensure_ascii=False
        )
        + "\n",
        **{
            path: gettext_catalogues.updated_text(path)
            for path in sorted(gettext_catalogues.LOCALES.glob("*.po"))
        },
    }
    for path, text in pages.items():
        if not check:
            files.write_text(path, text)
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise WorkspaceError(
                f"{path} is not what the code says; run `make docs` and commit the result"
            )


def architecture_page() -> str:
    """The page on the architecture, with the tree of packages and modules of today."""
    before, mark, after_mark = ARCHITECTURE.read_text(encoding="utf-8").partition("<!-- tree -->\n")
    if not mark:
        raise WorkspaceError(f"{ARCHITECTURE} has no mark <!-- tree --> for the tree of modules")
    after = after_mark[after_mark.index("<!-- end of tree -->") :]
    return f"{before}{mark}{tree()}{after}"


def tree() -> str:
    """Every package and module with the first sentence of its docstring, as Markdown."""
    lines = []
    for top in ("tasks", "flows", "tools", "benchmarks"):
        lines += [f"\n**`{top}/`** {_first_sentence(Path(top, '__init__.py'))}\n"]
        lines += [_line(path) for path in sorted(Path(top).glob("*.py"))]
        for init in sorted(Path(top).glob("*/__init__.py")):
            lines += [f"\n**`{init.parent}/`** {_first_sentence(init)}\n"]
            lines += [_line(path) for path in sorted(init.parent.glob("*.py"))]
            lines += [
                f"- `{inner.parent.name}/` {_first_sentence(inner)}"
                for inner in sorted(init.parent.glob("*/__init__.py"))
            ]
    return "\n".join(line for line in lines if line).lstrip("\n") + "\n"


def _line(path: Path) -> str:
    return "" if path.name == "__init__.py" else f"- `{path.stem}` {_first_sentence(path)}"


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.partition("\n\n")[0].split())
    return first.partition(". ")[0].rstrip(".") + "."


def settings_page() -> str:
    """Every setting with its default, range and meaning, as Markdown."""
    lines = [
        "# Settings",
        "",
        "All settings live in `params.yaml`. An unknown key or a value out of range is an error "
        "that names it.",
        "`erasure-audit run --set section.key=value` changes one for the batch at hand. This page "
        "is generated from",
        "`tasks/common/settings.py` by `make docs`.",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in settings.Settings.model_fields.items():
        if not isinstance(field.default, settings.Section):
            lines.append(
                f"| `{name}` | `{json.dumps(field.default)}` | "
                f"{field.description}{_range(field.metadata)} |"
            )
    for name, field in settings.Settings.model_fields.items():
        if isinstance(field.default, settings.Section):
            lines += _section(name, type(field.default))
    return "\n".join(lines) + "\n"


def _section(name: str, section: type[settings.Section]) -> list[str]:
    rows, parts = [], []
    for key, field in section.model_fields.items():
        if isinstance(field.default, settings.Section):
            parts += _section(f"{name}.{key}", type(field.default))
        else:
            rows.append(
                f"| `{name}.{key}` | `{json.dumps(field.default, default=str)}` "
                f"| {field.description}{_choices(field.annotation)}{_range(field.metadata)} |"
            )
    if section is settings.Rivals:
        rows += _recipes()
    return [
        "",
        f"## `{name}`",
        "",
        " ".join((section.__doc__ or "").split()),
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
        *rows,
        *parts,
    ]


def _recipes() -> list[str]:
    """What stands for null, method by method."""
    from tasks.unlearning.rivals import recipes

    def shown(value: object) -> str:
        return "–" if value is None else f"`{value}`"

    rows = []
    for name, own in recipes.RECIPES.items():
        scratch = name in recipes.FROM_SCRATCH
        numbers = [
            "`training_share` of `train.epochs`" if scratch else shown(own.epochs),
            "`train.learning_rate`" if scratch else shown(own.learning_rate),
            shown(own.retained_share),
            shown(own.temperature),
            own.optimiser or "–",
        ]
        rows.append(f"| `{name}` | {' | '.join(numbers)} | {own.source} |")
    return [
        "",
        "What null stands for. Epochs are passes over the retained records, over the forget set "
        "as well in",
        "`random_labels`, `salun`, `bad_teacher`, `amun` and `lotus`, and over the forget set "
        "alone in",
        "`delete`.",
        "",
        "| `unlearn.method` | `epochs` | `learning_rate` | `retained_share` | `temperature` | "
        "optimiser | source |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def _choices(annotation: object) -> str:
    from typing import Literal, get_args, get_origin

    if get_origin(annotation) is not Literal:
        return ""
    return "; one of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))


def _range(metadata: list[object]) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "pattern": "matches"}
    bounds = [
        f"{sign} `{getattr(item, name)}`"
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def command_page() -> str:
    """`--help` of every command, as Markdown."""
    import os

    os.environ.update(COLUMNS="100", TERM="dumb", NO_COLOR="1", _TYPER_FORCE_DISABLE_TERMINAL="1")
    import typer.main
    from typer.testing import CliRunner

    from flows.cli.main import app

    lines = ["# Commands", "", "What `--help` says. This page is generated by `make docs`.", ""]
    for words in _commands(typer.main.get_command(app), ()):
        text = CliRunner().invoke(app, [*words, "--help"], prog_name="erasure-audit").output
        title = " ".join(("erasure-audit", *words))
        body = "\n".join(line.rstrip() for line in text.strip().splitlines())
        lines += [f"## `{title}`", "", "```text", body, "```", ""]
    return "\n".join(lines)


def _commands(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*words, name))


if __name__ == "__main__":
    stage_cli.run(main)
