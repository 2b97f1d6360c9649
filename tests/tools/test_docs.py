"""What the documents say is true: generated pages, commands, links, and nothing of anybody's
machine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(pages: list[Path]) -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return sorted({part.strip() for line in lines for part in line.split("  #")[0].split("&&")})


def of_the_tool(pages: list[Path]) -> list[str]:
    return [text for text in commands(pages) if text.startswith("erasure-audit ")]


@pytest.mark.float32
def test_generated_pages_are_current() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tools.generate_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("command", of_the_tool([page for page in PAGES if page.name != "cli.md"]))
def test_every_command_of_the_documents_and_its_options_exist(command: str) -> None:
    import typer.main

    from flows.cli.main import app

    words = shlex.split(command.split(" > ")[0])[1:]
    found: Any = typer.main.get_command(app)
    while words and words[0] in getattr(found, "commands", {}):
        found = found.commands[words.pop(0)]
    assert not (getattr(found, "commands", {}) and found.no_args_is_help), (
        f"{command}: which command of the group?"
    )
    known = {
        name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(PAGES[:1]):
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in makefile


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
