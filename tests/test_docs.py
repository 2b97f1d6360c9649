"""What the documents say is true: generated pages, commands, links, and nothing of anybody's machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES[:1])
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    return sorted({part.strip() for line in lines for part in line.split("#")[0].split("&&")})


def test_generated_pages_are_current() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "flows.reference", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("command", [text for text in commands() if text.startswith("erasure-audit")])
def test_every_command_of_the_readme_and_its_options_exist(command: str) -> None:
    words = command.split()[1:]
    path = [word for word in words[: 2 if words[0] == "import" else 1] if not word.startswith("-")]
    tool = Path(sys.executable).with_name("erasure-audit")
    found = subprocess.run([tool, *path, "--help"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in found.stdout


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands():
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in makefile


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
