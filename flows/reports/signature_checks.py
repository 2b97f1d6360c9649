"""Checking signed reports: is every byte as it was signed, by whom, and what was not looked at.

Every file has to be vouched for: by its own signature, by the statement beside it, or, for the
evidence, by a signed PDF that carries it. Several vouchers have to agree. Needs no workspace and no
network, just the files and a public key.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.reports.signing import LOCK, REPORTS, SIGNED, STAMP, STATEMENT
from tasks.common import files
from tasks.common.errors import SignatureError
from tasks.signatures import pdf_signature, time_stamps
from tasks.signatures.keys import GARBLED, Signer, UntrustedError
from tasks.signatures.statement import Statement, unseal
from tasks.signatures.time_stamps import StampPolicy, TimeStamp

PARTS = ("report*.pdf", "report*.html", "evidence.json", "letter.html", "letter.pdf", "letter.txt")
"""The files of a report."""
LARGEST = 512 * 1024 * 1024
"""Largest file that is looked at, bytes."""
DEVELOPMENT = (
    "signed by a development key, which vouches for nobody, while a real key is trusted; sign with "
    "that one, or say --allow-development"
)
ABOUT = ("batch", "request_id", "outcome", "signed_at")


@dataclass
class SignatureFinding:
    """What checking found.

    Attributes:
        target: name of the file or folder.
        faults: what is not as it was signed, or not signed at all.
        untrusted: why a signature does not count, though nothing speaks against it.
        signers: whose signatures are right.
        stamps: what time-stamping authorities say, by the file whose signature it is about.
        about: batch, request, outcome and time, as signed; the time is the signer's own word.
        covered: files whose bytes are the signed ones.
        not_covered: what the signer vouches for and was not compared, with why.
    """

    target: str
    faults: list[str] = field(default_factory=list)
    untrusted: list[str] = field(default_factory=list)
    signers: list[Signer] = field(default_factory=list)
    stamps: dict[str, TimeStamp] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    covered: list[str] = field(default_factory=list)
    not_covered: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Something is covered, everything looked at is as it was signed, and by trusted keys
        alone."""
        return bool(self.covered and self.signers) and not self.faults and not self.untrusted

    @property
    def line(self) -> str:
        """The finding in one line."""
        if self.faults:
            return f"NOT INTACT: {self.target}: {'; '.join(self.faults)}"
        if not self:
            return f"NOT TRUSTED: {self.target}: {'; '.join(self.untrusted)}"
        about = ", ".join(
            f"{name.replace('_', ' ')} {self.about[name]}" for name in ABOUT if name in self.about
        )
        names = " and ".join(_named(signer) for signer in self.signers)
        stamps = "".join(f"; {line}" for line in sorted({s.line for s in self.stamps.values()}))
        rest = f"; not covered: {', '.join(self.not_covered)}" if self.not_covered else ""
        return f"intact: {self.target}, {about}; signed by {names}{stamps}{rest}"

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        signers = [
            {"key_id": signer.key_id, "subject": signer.subject, "development": signer.development}
            for signer in self.signers
        ]
        return {
            **vars(self),
            "signers": signers,
            "stamps": {name: stamp.plain() for name, stamp in self.stamps.items()},
            "intact": not self.faults and bool(self.covered),
            "holds": bool(self),
        }


@dataclass(frozen=True)
class Voucher:
    """A right signature, and the hashes that a file of a name may have by it."""

    name: str
    signer: Signer
    digests: dict[str, set[str]]
    about: dict[str, Any]
    stamp: TimeStamp | None = None


def verify(
    target: Path,
    trusted: Iterable[Signer],
    development: bool = False,
    stamps: StampPolicy | None = None,
) -> SignatureFinding:
    """Check a signed PDF, an `evidence.json`, a page, a statement, or a folder of them.

    A folder is checked as a whole: what is missing from it, additional in it, or not a plain file,
    is a fault, and so is another name than the one it was signed under.

    Args:
        target: the file or folder. A folder of `reports/` is checked by the statement in `signed/`.
        trusted: whose signatures count.
        development: whether a development key counts although a real one is trusted, too.
        stamps: whose time stamps count, and whether there has to be one; None: any. A wrong time
            stamp is a fault either way.
    """
    finding = SignatureFinding(target.name)
    try:
        return _verify(
            target.resolve(), list(trusted), development, stamps or StampPolicy(), finding
        )
    except (OSError, RuntimeError) as error:  # also a loop of links
        why = getattr(error, "strerror", None) or type(error).__name__
        finding.faults.append(f"{target.name} cannot be read ({why})")
        return finding


def _verify(
    target: Path,
    trusted: list[Signer],
    development: bool,
    stamps: StampPolicy,
    finding: SignatureFinding,
) -> SignatureFinding:
    folder = target if target.is_dir() else target.parent
    # not by glob, which passes over broken links
    parts = sorted(path for path in folder.iterdir() if any(map(path.match, PARTS)))
    statement_path = _statement_for(target, folder)
    looked_at = parts if target in (folder, statement_path) else [target]
    unfit = {path.name: why for path in {*parts, *looked_at} if (why := _unfit(path))}
    if statement_path is not None and (why := _unfit(statement_path)):
        unfit[statement_path.name], statement_path = why, None
    finding.faults += [f"{name}: {why}" for name, why in sorted(unfit.items())]
    parts = [path for path in parts if path.name not in unfit]
    looked_at = [path for path in looked_at if path.name not in unfit]
    if unfit and not looked_at:
        return finding
    counts = {signer.key_id: signer for signer in trusted}
    vouchers, broken = _pdfs(
        {*parts, *looked_at}, stamps
    )  # a single file may have been given another name
    statement = _statement(
        statement_path, [*counts.values(), *(voucher.signer for voucher in vouchers)], finding
    )
    if statement:
        stamp = _stamp(statement_path, statement, stamps, finding) if statement_path else None
        vouchers.insert(0, _voucher(statement, stamp))
    vouchers = [
        voucher for voucher in vouchers if any(path.name in voucher.digests for path in looked_at)
    ]
    for path in looked_at:
        _look_at(path, vouchers, broken, finding)
    if not looked_at:
        finding.faults.append("no report is here")
    for voucher in vouchers:
        finding.about = voucher.about | finding.about
        if voucher.stamp is not None:
            finding.stamps[voucher.name] = voucher.stamp
        if objection := stamps.objection(voucher.stamp):
            finding.untrusted.append(f"{voucher.name}: {objection}")
        if voucher.signer not in finding.signers:
            finding.signers.append(voucher.signer)
            trusted_signer = counts.get(voucher.signer.key_id)
            if trusted_signer is None:
                finding.untrusted.append(str(UntrustedError(voucher.signer.key_id)))
            elif (
                (trusted_signer.development or voucher.signer.development)
                and not development
                and any(not signer.development for signer in trusted)
            ):
                finding.untrusted.append(DEVELOPMENT)
    if target == folder and statement is not None:
        finding.faults += _not_as_signed(folder, statement, unfit)
    elif target == folder and statement_path is None and STATEMENT not in unfit and looked_at:
        finding.faults.append(f"{STATEMENT} is missing; a folder needs it, a PDF alone does not")
    finding.not_covered = _rest(statement, folder, finding.covered)
    return finding


def _unfit(path: Path) -> str | None:
    """Why a file is not read at all; None if it may be."""
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode):
        return "this is not a plain file; expected one, and no link, folder, pipe or device"
    if facts.st_size > LARGEST:
        return f"got {facts.st_size} bytes, expected at most {LARGEST}"
    return None


def _not_as_signed(folder: Path, statement: Statement, unfit: Collection[str]) -> Iterator[str]:
    """What is missing from a folder, additional in it, or called otherwise than when it was
    signed."""
    present = {path.name for path in folder.iterdir()}
    names = [Path(name) for name in statement.subjects if _is_part(name)]
    expected = {name.name for name in names}
    yield from (f"{name} is missing" for name in sorted(expected - present))
    yield from (
        f"{name} is not part of the signed report"
        for name in sorted(present - expected - {STATEMENT, STAMP} - set(unfit))
    )
    for signed_path in sorted({name.parts[1:-1] for name in names}):
        depth = len(signed_path) if _within(folder, REPORTS) or _within(folder, SIGNED) else 1
        if folder.parts[-depth:] != signed_path[-depth:]:
            yield (
                f"the folder is named {'/'.join(folder.parts[-depth:])}, and was signed as "
                f"{'/'.join(signed_path[-depth:])}"
            )


def _pdfs(parts: set[Path], stamps: StampPolicy) -> tuple[list[Voucher], dict[str, str]]:
    """The signed PDFs, each a voucher for itself and for the evidence it carries; and what is wrong
    with the others."""
    vouchers, broken = [], {}
    for path in sorted(parts):
        content = path.read_bytes()
        if path.suffix != ".pdf" or not pdf_signature.is_signed(content):
            continue
        try:
            signature = pdf_signature.check(content, stamps.authorities)
            carried = pdf_signature.attachments(content)
        except SignatureError as error:
            broken[path.name] = str(error)
            continue
        except (*GARBLED, RuntimeError, MemoryError) as error:
            broken[path.name] = f"the PDF cannot be read ({type(error).__name__})"
            continue
        digests = {name: {hashlib.sha256(value).hexdigest()} for name, value in carried.items()}
        about = _about(carried.get("evidence.json", b"{}"))
        vouchers.append(
            Voucher(
                path.name,
                signature.signer,
                {**digests, path.name: {files.sha256(path)}},
                about,
                signature.stamp,
            )
        )
    return vouchers, broken


def _statement(
    path: Path | None, signers: list[Signer], finding: SignatureFinding
) -> Statement | None:
    if path is None:
        return None
    try:
        return unseal(path.read_bytes(), signers)
    except UntrustedError as error:
        finding.untrusted.append(str(error))
    except (OSError, SignatureError) as error:
        finding.faults.append(f"{path.name}: {error}")
    return None


def _stamp(
    statement_path: Path, statement: Statement, stamps: StampPolicy, finding: SignatureFinding
) -> TimeStamp | None:
    """What the time stamp beside a statement says; a wrong one is a fault."""
    path = statement_path.with_name(STAMP)
    try:
        if not path.is_symlink() and not path.exists():
            if statement.predicate.get("time_stamped"):
                finding.faults.append(f"{STAMP} is missing; the statement was signed with one")
            return None
        if why := _unfit(path):
            finding.faults.append(f"{STAMP}: {why}")
            return None
        digest = hashlib.sha256(statement_path.read_bytes()).digest()
        stamp = time_stamps.check(path.read_bytes(), digest, stamps.authorities)
        stamp.refuse_unless_near(datetime.fromisoformat(str(statement.predicate["signed_at"])))
    except (SignatureError, OSError, KeyError, ValueError, TypeError) as error:
        finding.faults.append(f"{STAMP}: {error}")
        return None
    return stamp


def _voucher(statement: Statement, stamp: TimeStamp | None) -> Voucher:
    digests: dict[str, set[str]] = {}
    for name, digest in statement.subjects.items():
        if _is_part(name):
            digests.setdefault(Path(name).name, set()).add(digest)
    return Voucher(STATEMENT, statement.signer, digests, statement.predicate, stamp)


def _look_at(
    path: Path, vouchers: list[Voucher], broken: dict[str, str], finding: SignatureFinding
) -> None:
    """A file holds if somebody vouches for it, and nobody for other bytes of that name."""
    digest = files.sha256(path)
    vouching = [voucher for voucher in vouchers if path.name in voucher.digests]
    contradicting = [
        voucher.name for voucher in vouching if digest not in voucher.digests[path.name]
    ]
    if contradicting:
        finding.faults.append(
            f"{path.name} is not the one that {' and '.join(contradicting)} vouches for"
        )
    elif vouching:
        finding.covered.append(path.name)
    elif path.name in broken:
        finding.faults.append(f"{path.name}: {broken[path.name]}")
    elif not finding.untrusted:
        finding.faults.append(
            f"{path.name}: no signature covers it; expected a signed PDF, or {STATEMENT} beside it"
        )


def _rest(statement: Statement | None, folder: Path, covered: list[str]) -> list[str]:
    """What a reader could take for checked, and was not."""
    if statement is None:
        return [f"the page, the models and {LOCK} (no statement at hand)"]
    parts = sorted(
        {Path(name).name for name in statement.subjects if _is_part(name)} - set(covered)
    )
    rest = [
        f"{name} ({'not looked at' if (folder / name).exists() else 'not at hand'})"
        for name in parts
    ]
    root = _root(folder)
    states = {
        name: _state(root, name, digest)
        for name, digest in statement.subjects.items()
        if not _is_part(name)
    }
    lock = states.pop(LOCK, "")
    counted = Counter(states.values())
    rest += [
        f"{counted[state]} of {len(states)} models ({state})" for state in sorted(counted) if state
    ]
    return rest + [f"{LOCK} ({lock})"] * bool(lock)


def _state(root: Path | None, name: str, digest: str) -> str:
    """Empty where the file is as it was signed. Another file is no fault: the workspace may be at
    its next batch."""
    if root is None or not (root / name).is_file():
        return "not at hand"
    return (
        ""
        if files.sha256(root / name) == digest
        else "not the one signed, perhaps of another batch"
    )


def _statement_for(target: Path, folder: Path) -> Path | None:
    """The statement itself, the one beside the file, or the one in `signed/` for a folder of
    `reports/`."""
    root = _root(folder)
    signed = (
        [root / SIGNED / folder.relative_to(root / REPORTS)]
        if root and _within(folder, REPORTS)
        else []
    )
    named = [target] if target.name.endswith(".dsse.json") else []
    candidates = [*named, *(parent / STATEMENT for parent in (folder, *signed))]
    return next((path for path in candidates if path.is_file()), None)


def _root(folder: Path) -> Path | None:
    """The workspace that a report's folder lies in, by its place alone."""
    return folder.parents[2] if _within(folder, REPORTS) or _within(folder, SIGNED) else None


def _within(folder: Path, top: str) -> bool:
    return len(folder.parts) > 3 and folder.parts[-3] == top


def _is_part(name: str) -> bool:
    return name.startswith((f"{REPORTS}/", f"{SIGNED}/"))


def _about(evidence: bytes) -> dict[str, Any]:
    """What a signed PDF's own evidence says of it."""
    try:
        content = json.loads(evidence)
        return {
            "batch": content["batch"],
            "request_id": content["request"]["id"],
            "outcome": content["outcome"],
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _named(signer: Signer) -> str:
    mark = ", a DEVELOPMENT key, which vouches for nobody" if signer.development else ""
    return f"{signer.subject or 'a bare public key'} (key {signer.key_id[:16]}{mark})"
