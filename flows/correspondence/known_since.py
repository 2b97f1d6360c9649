"""What is recorded beside a batch's decisions: notices to recipients, claimed exceptions; and
reports that are made again with all that the register knows by now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.erasure import carry_out, report_renewal
from flows.pipeline import close_batch
from flows.register import recorded
from flows.register.register import Register, UnknownRequestError
from flows.workspace import git, shell
from tasks.common import files
from tasks.common.errors import AuditError
from tasks.requests import decisions, provisions


class RecordError(AuditError):
    """Something that cannot be recorded, or not be shown yet."""


def record_notice(
    home: Path, register: Register, target: str, by: str, to: str, comment: str = ""
) -> None:
    """Record that a recipient or a processor was told of an erasure (Art. 19 GDPR).

    Args:
        home: the workspace.
        register: its register.
        target: name of a batch, or id of a request.
        by: who told him.
        to: his name, as `report.recipients` or `report.processors` lists it.
        comment: free text for the report.

    Raises:
        RecordError: the settings list nobody of that name, or there is no such batch.
    """
    names = recorded.parties(home)
    if to not in names:
        raise RecordError(
            f"got {to!r}, expected one of {', '.join(map(repr, names)) or 'none listed'}: those in "
            "report.recipients and report.processors"
        )
    batch, request = _target(register, target)
    register.note(recorded.NOTICE, by, request_id=request, batch=batch, to=to, comment=comment)


def record_exception(register: Register, target: str, by: str, ground: str, reason: str) -> None:
    """Record an exception that is claimed against an erasure (Art. 17(3) GDPR).

    Args:
        register: the register.
        target: name of a batch, or id of a request.
        by: who claims it.
        ground: the provision.
        reason: why it applies; no personal data.

    Raises:
        RecordError: there is no such batch.
        RequestError: the provision is of another law than a request concerned.
    """
    batch, request = _target(register, target)
    for case in register.cases(batch=batch):
        if request in (None, case.request_id):
            provisions.check(ground, case.regulation, case.request_id)
    register.note(
        recorded.EXCEPTION, by, request_id=request, batch=batch, ground=ground, reason=reason
    )


def _target(register: Register, target: str) -> tuple[str, str | None]:
    """The batch that is meant, and the request if a single one is."""
    try:
        case = register.case(register.find(target))
    except UnknownRequestError:
        if not register.cases(batch=target):
            raise RecordError(
                f"got {target!r}, expected the name of a batch or the id of a request"
            ) from None
        return target, None
    if case.batch is None:
        raise RecordError(f"request {case.request_id} is in no batch yet, so it has no report")
    return case.batch, case.request_id


def renew(home: Path, register: Register, batch: str) -> bool:
    """Make the reports of a closed batch again with what the register knows by now.

    Returns:
        Whether anything was new.

    Raises:
        RecordError: the batch is not erased and closed.
        BusyError: a release or an erasure is at work.
    """
    path = home / decisions.FOLDER / f"{batch}.json"
    if not path.exists() or not git.has_tag(home, f"erased/{batch}"):
        raise RecordError(
            f"batch {batch} is not erased yet; its reports are made again when it is, with all "
            "that the register knows"
        )
    with register.lease(carry_out.LEASE):
        renewals = close_batch.renewals(home, batch)
        content = _new_content(home, register, batch, path)
        if content is not None:
            files.write_json(path, content)
        elif _are_those_of(home, batch, (*renewals, f"erased/{batch}")[0]):
            return False
        changed = [each for each in report_renewal.renew(home, batch) if each.exists()]
        paths = [each.relative_to(home).as_posix() for each in changed]
        message = f"Reports of batch {batch} with what became known since"
        git.commit(home, paths, message)
        git.tag(home, f"renewed/{batch}/{len(renewals) + 1}", message)
    return True


def _are_those_of(home: Path, batch: str, tag: str) -> bool:
    """Whether the reports are as a tag keeps them; they are not where a renewal was killed."""
    return shell.succeeds(home, "diff", "--quiet", tag, "--", f"reports/{batch}", f"signed/{batch}")


def behind(home: Path, register: Register) -> dict[str, str]:
    """The erased batches whose reports lack what the register knows by now, each with the SHA-256
    of its decisions as they are filed; `renew` makes those reports again."""
    outdated = {}
    for tag in shell.git(home, "tag", "--list", "erased/*").split():
        batch = tag.removeprefix("erased/")
        path = home / decisions.FOLDER / f"{batch}.json"
        if path.exists() and _new_content(home, register, batch, path) is not None:
            outdated[batch] = files.sha256(path)
    return outdated


def _new_content(home: Path, register: Register, batch: str, path: Path) -> dict[str, Any] | None:
    """A batch's decisions with what the register knows by now; None: they are filed so already."""
    filed = files.read_json(path)
    parties = recorded.parties_at(home, close_batch.tag_of(batch))
    content = recorded.in_decisions(filed, register, batch, parties)
    return None if content == filed else content
