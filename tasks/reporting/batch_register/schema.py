"""What `register.json` holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tasks.common.errors import EvidenceError
from tasks.common.language import Code
from tasks.reporting.evidence_of_test import DiscoveryControl
from tasks.reporting.evidence_part import Count, Hash, Part, Share, Verdict

SCHEMA_VERSION = 2
FILE = "register.json"
Outcome = Literal[
    "fail", "inconclusive", "below_detection", "rejected", "data_only", "retrained", "pass"
]
OUTCOMES: tuple[Outcome, ...] = (
    "fail",
    "inconclusive",
    "below_detection",
    "rejected",
    "data_only",
    "retrained",
    "pass",
)
"""The worst first. What was released counts: `retrained` is a request that the released model,
trained anew without the records, fulfils, whatever the test of the other model said."""
SOON = 7
"""A deadline is near when so many days are left, or fewer."""
Progress = Literal["awaiting_signoff", "refused", "set_aside", "released", "erased", "closed"]
"""How far a request is. A batch's own files never say `closed`, for they are older than that: the
pages of all batches say it, where the register of requests does."""
LEAST_FAR: tuple[Progress, ...] = (
    "awaiting_signoff",
    "refused",
    "released",
    "erased",
    "closed",
    "set_aside",
)
"""A batch of which nothing but requests that were set aside is left is set aside itself."""
Seconds = Annotated[float | None, Field(ge=0)]


class Influence(Part):
    """The residual influence with its interval; null where none was measured."""

    estimate: float | None
    low: float | None
    high: float | None


class Line(Part):
    """One request."""

    request_id: str
    position: Count
    folder: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    status: Literal["audited", "rejected"]
    progress: Progress
    test: Literal["references", "screening", "none"] | None
    verdict: Verdict
    outcome: Outcome
    register_: DiscoveryControl | None = Field(alias="register")
    reason: str
    regulation: str | None
    received: str | None
    subject_pseudonym: str | None
    records: Count
    deadline: date | None = Field(strict=False)
    days_left: int | None
    residual_influence: Influence
    not_told: list[str] = Field(
        [], description="recipients who were not told yet of an erasure that was carried out"
    )
    earlier_audits: Count = 0
    error_rate: Share | None = Field(
        None, description="that any of all audits of the request passes wrongly, at most"
    )
    sha256: dict[str, Hash]


class Cost(Part):
    """Wall-clock time, s; null where nobody knows."""

    train: Seconds
    unlearn: Seconds
    retrain: Seconds
    references: Seconds = Field(description="of all reference models together")


class BatchRegister(Part):
    """A batch and its requests, the worst first."""

    schema_version: Literal[2]
    batch: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    started: str = Field(pattern=r"^\d{4}-\d\d-\d\dT")
    tool_version: str
    controller: str
    system: str
    mode: Literal["references", "screening"]
    alpha: Share
    method: str | None = Field(description="null where no request was carried out")
    cost: Cost
    passes: Count
    passes_that_hold: Count = Field(
        description="false discoveries among all passes of the batch controlled"
    )
    languages: list[Code] = Field(
        ["en"], min_length=1, description="of the pages, the main one first"
    )
    requests: list[Line]
    sentences: dict[str, Any] = Field(
        {}, description="what the reasons were made of, see tasks/common/language.py"
    )

    @property
    def counts(self) -> dict[Outcome, int]:
        """Requests by outcome, the worst first."""
        return counts(self.requests)

    @property
    def progress(self) -> Progress:
        """How far the batch is: as the request that is least far."""
        all_progress = {line.progress for line in self.requests}
        return next(name for name in LEAST_FAR if name in all_progress)

    @property
    def deadlines(self) -> Deadlines:
        """How the batch stands with the law's deadlines."""
        return deadlines(self.requests)

    def with_closed(self, closed: Container[tuple[str, str]]) -> BatchRegister:
        """The same where requests, given as batch and id, are closed."""
        lines = [
            line.model_copy(update={"progress": "closed"})
            if (self.batch, line.request_id) in closed
            else line
            for line in self.requests
        ]
        return self.model_copy(update={"requests": lines})

    def as_of(self, day: date) -> BatchRegister:
        """The same with the days left counted from `day`."""
        lines = [
            line.model_copy(
                update={"days_left": None if line.deadline is None else (line.deadline - day).days}
            )
            for line in self.requests
        ]
        return self.model_copy(update={"requests": lines})


class Deadlines(Part):
    """Requests by what is left of their deadline."""

    overdue: Count
    soon: Count = Field(description=f"at most {SOON} days are left")
    later: Count
    none: Count = Field(description="the law names no figure, or it cannot be counted")
    next: date | None = Field(strict=False, description="the nearest deadline that is not over")


class Past(Part):
    """What a later batch's summary says of this one."""

    batch: str
    started: str
    requests: Count
    counts: dict[str, Count]
    overdue: Count
    dated: Count = Field(description="requests with a deadline")
    method: str | None
    cost: Cost
    progress: Progress | None = None


Earlier: TypeAdapter[list[Past]] = TypeAdapter(list[Past])


def urgency(entry: Line) -> tuple[int, date, int]:
    """Sorting key: the worst outcome first, then the nearest deadline."""
    return OUTCOMES.index(entry.outcome), entry.deadline or date.max, entry.position


def checked(values: Any, where: str) -> BatchRegister:
    """The register, checked. Raises `EvidenceError` that names the first places at fault."""
    try:
        return BatchRegister.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]
        ]
        raise EvidenceError(
            f"{where}: the register is not what it has to be: " + "; ".join(faults)
        ) from None


def counts(lines: Iterable[Line]) -> dict[Outcome, int]:
    """Requests by outcome, the worst first."""
    by_outcome = Counter(entry.outcome for entry in lines)
    return {outcome: by_outcome[outcome] for outcome in OUTCOMES}


def deadlines(lines: Sequence[Line]) -> Deadlines:
    """How requests stand with their deadlines."""
    days_left = [entry.days_left for entry in lines if entry.days_left is not None]
    ahead = [
        entry.deadline for entry in lines if entry.days_left is not None and entry.days_left >= 0
    ]
    return Deadlines(
        overdue=sum(days < 0 for days in days_left),
        soon=sum(0 <= days <= SOON for days in days_left),
        later=sum(days > SOON for days in days_left),
        none=len(lines) - len(days_left),
        next=min((day for day in ahead if day is not None), default=None),
    )
