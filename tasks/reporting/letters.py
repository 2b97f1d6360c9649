"""The person's answer: a letter in plain words, in the language that the request asks for.

A letter is a text template of the folder `reports/templates/<report.letters>`; page, PDF and text
are made from it. A controller replaces a letter by a template of the same name in a folder of its
own; `answer.zh.txt.j2` is for one language, `answer.txt.j2` for all. What the folder lacks is taken
from `letters/`.

A letter names the person by the reference of the request alone. It is written once there is
something to tell: the answer when every copy is erased, a refusal when people refused or the
request could not be acted on, and a notice when the deadline was extended.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from tasks import __version__
from tasks.common import files, language
from tasks.common.language import SOURCE, Code
from tasks.reporting.pages import environment, render

if TYPE_CHECKING:
    import jinja2

    from tasks.reporting.pdf import Printer

Kind = Literal["answer", "refusal", "extension"]
FOLDER = "letters"
"""Folder of the letters that the tool has."""
WIDTH = 76
"""Characters of a line of the text."""
EXPLAINED = frozenset(
    {
        *("unknown_subject", "similar_subject", "ambiguous_subject", "duplicate_subject"),
        *("unknown_record", "record_of_another_subject", "malformed", "not_erasure"),
    }
)
"""Why a request could not be acted on, where the reason is one for the person. Any other refusal
needs a ground in law, which only people can give."""


@dataclass(frozen=True)
class Letter:
    """What a letter says; no name and no identifier of the person.

    Attributes:
        kind: answer, refusal or extension.
        reference: the request's id, or its number in the batch where its id is not a UUID.
        regulation: gdpr, ccpa, lgpd or pipl; empty: none is known.
        at: RFC 3339, when what it tells of happened.
        controller, contact, authority: of the settings; empty: not set.
        received: RFC 3339, when the request was received.
        reason: why it was refused or takes longer.
        ground: the provision that a refusal rests on; empty: none is named.
        code: short word for why it could not be acted on.
        until: ISO date, the last day after an extension.
        erased: RFC 3339, when the last copy was erased.
        backups: ISO date on which the last backup is overwritten.
        model: what became of the model: none was trained, it was retrained, it passed, or it was
            changed and did not pass.
        rate: error rate of the test, a share.
        told: whether all recipients were told.
        exceptions: `ground` and `reason` of what is kept.
    """

    kind: Kind
    reference: str
    regulation: str
    at: str
    controller: str
    contact: str = ""
    authority: str = ""
    received: str | None = None
    reason: str = ""
    ground: str = ""
    code: str | None = None
    until: str | None = None
    erased: str | None = None
    backups: str | None = None
    model: Literal["none", "retrained", "passed", "changed"] | None = None
    rate: float | None = None
    told: bool = False
    exceptions: tuple[Mapping[str, str], ...] = ()


def of_evidence(item: Mapping[str, Any]) -> Letter | None:
    """The letter that a request's evidence calls for; None where nothing is to be told yet."""
    common = _common(item)
    if item["progress"] == "erased":
        return Letter("answer", at=item["completed"], **common, **_erased(item))
    if item["refusal"]:
        refusal = item["refusal"]
        ground = refusal.get("ground") or ""
        return Letter(
            "refusal", at=refusal["at"], reason=refusal["reason"], ground=ground, **common
        )
    started = item["provenance"]["started"]
    if item["outcome"] == "rejected":
        code = item["request"]["code"]
        return Letter("refusal", at=started, code=code, **common) if code in EXPLAINED else None
    if item["extension"]:
        longer = item["extension"]
        return Letter(
            "extension", at=longer["at"], reason=longer["reason"], until=longer["to"], **common
        )
    return None


def _common(item: Mapping[str, Any]) -> dict[str, Any]:
    request, organisation = item["request"], item["organisation"]
    return {
        "reference": reference(request["id"], request["position"]),
        "regulation": str(request["regulation"] or "").lower(),
        "controller": organisation["controller"],
        "contact": organisation["contact"] or "",
        "authority": organisation["authority"] or "",
        "received": _moment(request["received"]),
    }


def _erased(item: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer after an erasure says of data, model and recipients."""
    expiries = [copy["expires_on"] for copy in item["copies"] if copy["expires_on"]]
    if item["outcome"] == "data_only":
        model = "none"
    elif item["deleted_by_retraining"]:
        model = "retrained"
    else:
        model = "passed" if item["outcome"] == "pass" else "changed"
    return {
        "erased": item["completed"],
        "backups": max(expiries, default=None),
        "model": model,
        "rate": item["thresholds"]["alpha"],
        "told": bool(item["recipients"]) and all(party["told_at"] for party in item["recipients"]),
        "exceptions": tuple(item["exceptions"]),
    }


def _moment(text: str | None) -> str | None:
    """A time stamp, or None for what a malformed request has in its place."""
    try:
        return datetime.fromisoformat(text or "").isoformat()
    except ValueError:
        return None


def reference(request_id: str, position: int | None = None) -> str:
    """How a letter calls a request: an id that is not a UUID may be personal data."""
    try:
        return str(UUID(request_id))
    except ValueError:
        return f"request {position}"


def language_of(item: Mapping[str, Any]) -> Code:
    """The language of a request's letter: the first that it asks for and this tool writes, else the
    main one of the reports."""
    return next(iter(language.of_report([], item["request"]["languages"])), item["languages"][0])


def folder_of(item: Mapping[str, Any]) -> str:
    """The folder of the letters' templates, below `reports/templates`."""
    return str(item["provenance"]["settings"].get("report", {}).get("letters") or FOLDER)


class LetterWriter:
    """Writes letters of one language by the templates of one folder."""

    def __init__(self, templates: Path, code: Code = SOURCE, folder: str = FOLDER) -> None:
        """Args:
        templates: folder of all templates.
        code: the language.
        folder: of the letters, below `templates`.

        Raises:
            WorkspaceError: a catalogue is missing.
        """
        self._pages = environment(templates, code)
        self._texts: jinja2.Environment = self._pages.overlay(autoescape=False)
        self._names = [
            f"{letters_folder}/{{kind}}.{ending}"
            for letters_folder in dict.fromkeys((folder, FOLDER))
            for ending in (f"{code}.txt.j2", "txt.j2")
        ]
        self.code = code

    def blocks(self, letter: Letter) -> list[dict[str, Any]]:
        """The letter's parts in their order, the subject first: `kind`, and `text` or `entries`.

        Raises:
            EvidenceError, WorkspaceError: a template asks for what is not there, or is broken.
        """
        names = [name.format(kind=letter.kind) for name in self._names]
        name = self._texts.select_template(names).name or names[-1]
        return parse(render(self._texts, name, {"l": letter, language.SENTENCES: {}}))

    def html(self, letter: Letter) -> str:
        """The letter as a page."""
        subject, *rest = self.blocks(letter)
        view = {**asdict(letter), "subject": subject["text"], "blocks": rest}
        return render(self._pages, "letter.html.j2", {"l": {**view, "version": __version__}})

    def write(self, letter: Letter, printer: Printer, folder: Path) -> None:
        """Write the letter into a folder as page, PDF and text."""
        html = self.html(letter)
        files.write_text(folder / "letter.html", html)
        files.write_bytes(folder / "letter.pdf", printer.pdf(html, None, letter.at))
        files.write_text(folder / "letter.txt", self.text(letter))

    def text(self, letter: Letter) -> str:
        """The letter as plain text."""
        wide = self.code != SOURCE  # Chinese has no spaces to break lines at
        speaker: Any = self._pages.globals["language"]
        reference = speaker.gettext("Reference %(id)s")
        lines = [letter.controller, reference % {"id": letter.reference}, ""]
        for block in self.blocks(letter):
            if block["kind"] == "list":
                lines += [_wrapped(item, wide, "- ", "  ") for item in block["entries"]]
            else:
                lines.append(_wrapped(block["text"], wide))
            lines.append("")
        return "\n".join(lines).rstrip("\n") + "\n"


def parse(text: str) -> list[dict[str, Any]]:
    """The parts of a letter's text: paragraphs between blank lines; "# " begins a heading, "- " an
    item of a list."""
    parts: list[dict[str, Any]] = []
    paragraphs = [part.strip() for part in text.replace("\r\n", "\n").split("\n\n")]
    for part in filter(None, paragraphs):
        lines = [line.strip() for line in part.splitlines() if line.strip()]
        if all(line.startswith("- ") for line in lines):
            parts.append({"kind": "list", "entries": [line[2:].strip() for line in lines]})
        elif part.startswith("# "):
            parts.append({"kind": "heading", "text": " ".join(lines)[2:].strip()})
        else:
            parts.append({"kind": "paragraph", "text": _run_on(lines)})
    return parts


def _run_on(lines: list[str]) -> str:
    """Lines as one; a Chinese full stop needs no space after it."""
    return " ".join(lines).replace("。 ", "。")


def _wrapped(text: str, wide: bool, first: str = "", later: str = "") -> str:
    if wide:
        return first + text
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
