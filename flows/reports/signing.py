"""Signing the reports of a batch.

`reports/<batch>/` is what the pipeline makes, the same bytes every time, and stays unsigned. What
is handed over is `signed/<batch>/<request>/`: the PDF with its signature, the page and the evidence
as they are, and the statement that names them all, the models and `dvc.lock` by their hashes.
`flows.reports.signature_checks` checks it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.workspace import dvc_graph, signing_keys
from tasks.common import files
from tasks.common.errors import SignatureError, WorkspaceError
from tasks.signatures import pdf_signature
from tasks.signatures.keys import Signer, SigningKey
from tasks.signatures.statement import seal, unseal
from tasks.signatures.time_stamps import Stamper

STATEMENT = "statement.dsse.json"
STAMP = "statement.tst"
"""The statement's time stamp (RFC 3161, DER), where there is one."""
REPORTS, SIGNED, LOCK = "reports", "signed", "dvc.lock"
CHAIN = "ledger/chain"
"""Where a batch keeps the end of the register's chain (`flows.register.anchors`)."""


@dataclass(frozen=True)
class Signed:
    """What became of one request; `folder` is relative to the workspace, `new` false where all was
    signed already."""

    request: str
    folder: str
    new: bool

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def sign(workspace: Path, batch: str, key: SigningKey) -> list[Signed]:
    """Sign the report of every request of a batch. What a trusted key has signed, and is as it was,
    is left alone.

    A development key's signature gives way to one of any other key, and never the other way round.

    Raises:
        WorkspaceError: the batch has no reports, or they are not the ones that DVC recorded.
        SignatureError: a PDF cannot be signed, or no time stamp can be had; the request's folder
            is as it was before.
    """
    reports = workspace / REPORTS / batch
    recorded = dvc_graph.recorded_hash(workspace, f"{REPORTS}/{batch}")
    if recorded is None or not reports.is_dir() or dvc_graph.content_hash(reports) != recorded:
        raise WorkspaceError(
            f"{REPORTS}/{batch} is not what {LOCK} records, so it is not signed; bring it up to "
            "date with"
            f" `erasure-audit run {batch}`"
        )
    trusted = [*signing_keys.trusted(workspace), key.signer]
    stamper = signing_keys.stamper(workspace)
    return [
        _sign(workspace, path.parent, key, trusted, stamper)
        for path in sorted(reports.glob("*/evidence.json"))
    ]


def names_development_key(workspace: Path, batch: str) -> bool:
    """Whether reports of a batch say, on their first page, that a development key signs them: they
    were made while no other key was at hand."""
    provenances = (
        files.read_json(path).get("provenance") or {}
        for path in (workspace / REPORTS / batch).glob("*/evidence.json")
    )
    return any((provenance.get("signing") or {}).get("development") for provenance in provenances)


def _sign(
    workspace: Path,
    source: Path,
    key: SigningKey,
    trusted: list[Signer],
    stamper: Stamper | None,
) -> Signed:
    evidence = files.read_json(source / "evidence.json")
    target = workspace / SIGNED / source.relative_to(workspace / REPORTS)
    subjects = _subjects(workspace, source, evidence)
    done = Signed(evidence["request"]["id"], target.relative_to(workspace).as_posix(), new=True)
    if _holds(target, subjects, key, trusted, stamper):
        return Signed(done.request, done.folder, new=False)
    with files.whole_folder(target) as draft:
        for path in sorted(source.iterdir()):
            content = path.read_bytes()
            if path.suffix == ".pdf":
                content = pdf_signature.sign(content, key, stamper)
                subjects[f"{done.folder}/{path.name}"] = hashlib.sha256(content).hexdigest()
            files.write_bytes(draft / path.name, content)
        predicate = _predicate(workspace, evidence, key) | {"time_stamped": stamper is not None}
        sealed = seal(subjects, predicate, key)
        files.write_bytes(draft / STATEMENT, sealed)
        if stamper is not None:
            files.write_bytes(draft / STAMP, stamper.stamp(hashlib.sha256(sealed).digest()))
    return done


def _subjects(workspace: Path, source: Path, evidence: dict[str, Any]) -> dict[str, str]:
    """Everything that the report rests on and that has a hash."""
    report_files = [*sorted(source.iterdir()), workspace / LOCK]
    models = {model["file"]: model["weights_sha256"] for model in evidence.get("models") or []}
    return models | {
        path.relative_to(workspace).as_posix(): files.sha256(path) for path in report_files
    }


def _predicate(workspace: Path, evidence: dict[str, Any], key: SigningKey) -> dict[str, Any]:
    return {
        "batch": evidence["batch"],
        "request_id": evidence["request"]["id"],
        "verdict": evidence["verdict"],
        "outcome": evidence["outcome"],
        "tool_version": evidence["provenance"]["tool_version"],
        "started": evidence["provenance"]["started"],
        "signed_at": files.timestamp(),
        "development": key.signer.development,
        **_register_end(workspace, evidence["batch"]),
    }


def _register_end(workspace: Path, batch: str) -> dict[str, Any]:
    """The end of the register's chain, where the batch has one on file: whoever keeps the signed
    report can tell later whether the register still holds it."""
    path = workspace / CHAIN / f"{batch}.json"
    return {"register_end": files.read_json(path)} if path.is_file() else {}


def _holds(
    target: Path,
    subjects: dict[str, str],
    key: SigningKey,
    trusted: list[Signer],
    stamper: Stamper | None,
) -> bool:
    """Whether the folder is signed already, over the same bytes, by a key that need not be
    replaced, and time-stamped where an authority is set."""
    if stamper is not None and not (target / STAMP).is_file():
        return False
    try:
        statement = unseal((target / STATEMENT).read_bytes(), trusted)
        unchanged = all(
            files.sha256(target / Path(name).name) == digest
            for name, digest in statement.subjects.items()
            if name.startswith(f"{SIGNED}/")
            or (name.startswith(f"{REPORTS}/") and not name.endswith(".pdf"))
        )
        bearers = {pdf_signature.check(path.read_bytes()).signer for path in target.glob("*.pdf")}
    except (OSError, SignatureError):
        return False
    named = {
        name: digest
        for name, digest in statement.subjects.items()
        if not name.startswith(f"{SIGNED}/")
    }
    replaceable = statement.signer.development and statement.signer != key.signer
    return unchanged and named == subjects and bearers == {statement.signer} and not replaceable
