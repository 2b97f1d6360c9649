"""The verdicts of a batch, read from the evidence beside its reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.workspace import checkouts
from tasks.common import files
from tasks.common.errors import RequestError


@dataclass(frozen=True)
class Result:
    """The result of one request; the report's path is relative to the workspace."""

    request: str
    verdict: str
    reason: str
    estimate: float | None
    low: float | None
    high: float | None
    status: str
    report: str
    outcome: str = ""
    """the report's name of the result, such as `data_only`"""
    original: dict[str, Any] = field(default_factory=dict)
    """the same test on the original model, which has forgotten nobody: `verdict`, `estimate`,
    `low` and `high`; empty if there was no test"""

    @property
    def ending(self) -> str:
        """The verdict, or why there is none, for people."""
        if self.status != "rejected":
            return self.verdict
        return "data only" if self.outcome == "data_only" else "set aside"

    @property
    def interval(self) -> str:
        """The residual influence with its interval, for people."""
        return _interval(self.estimate, self.low, self.high)

    @property
    def original_interval(self) -> str:
        """The original model's residual influence with its interval, for people."""
        return _interval(*(self.original.get(key) for key in ("estimate", "low", "high")))

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def _interval(estimate: float | None, *ends: float | None) -> str:
    if estimate is None:
        return "—"
    low, high = ("?" if end is None else f"{end:.2f}" for end in ends)
    return f"{estimate:.2f} ({low} … {high})"


def read(workspace: Path, batch: str) -> list[Result]:
    """The results of a batch, sorted by request id; empty before its reports are made."""
    paths = sorted((workspace / "reports" / batch).glob("*/evidence.json"))
    return [_result(path, workspace) for path in paths]


def advice(workspace: Path, batch: str) -> list[str]:
    """Reasons for a full retrain after a batch; empty if none is advised."""
    paths = sorted((workspace / "reports" / batch).glob("*/evidence.json"))
    texts = [item["text"] for path in paths for item in files.read_json(path).get("advice", [])]
    return list(dict.fromkeys(texts))


def workspaces(workspace: Path) -> list[Path]:
    """The workspaces that may hold reports: this one, and the checkouts of batches that are not
    released yet."""
    return [workspace, *checkouts.workspaces(workspace).values()]


def index(workspace: Path, batch: str) -> Path | None:
    """The first page of a batch's reports, relative to the workspace; None: there are none."""
    pages = [folder / "reports" / batch / "index.html" for folder in workspaces(workspace)]
    return next((page.relative_to(workspace) for page in pages if page.exists()), None)


def find(workspace: Path, request: str, first: str) -> Path:
    """The `evidence.json` of a request, found by the beginning of its id. Reports of the batch
    `first` take precedence; checkouts of batches that await approval are searched, too.

    Raises:
        RequestError: no report or several requests match.
    """
    paths = [
        path
        for folder in workspaces(workspace)
        for path in sorted((folder / "reports").glob(f"*/{_safe(request.lower())}*/evidence.json"))
    ]
    paths = [path for path in paths if path.parts[-3] == first] or paths
    if not paths:
        raise RequestError(
            f"got {request!r}, expected the id of a request that has a report; see `erasure-audit "
            "status`"
        )
    if len({path.parent.name for path in paths}) > 1:
        raise RequestError(
            f"got {request!r}, which begins several request ids; give more of the id"
        )
    return paths[-1]


def explanation(evidence: dict[str, Any]) -> list[str]:
    """A summary of the evidence on one request, as lines."""
    influence = evidence.get("residual_influence") or {}
    estimate, low, high = (_number(influence.get(key)) for key in ("estimate", "low", "high"))
    check = evidence.get("self_check") or {}
    detectability = _number(evidence.get("detectability"))
    caught, cleared = (_yes(check.get(key)) for key in ("original_caught", "retrain_cleared"))
    lines = [
        f"Request {evidence.get('request', {}).get('id', '?')}: {evidence.get('verdict', '?')}",
        f"  {evidence.get('reason', '')}",
        f"  residual influence {estimate} between {low} and {high}; detectability {detectability}",
        f"  self-check: original model caught {caught}, retrained model cleared {cleared}",
    ]
    measured = evidence.get("accuracy") or {}
    for model in ("original", "unlearned", "retrained"):
        if isinstance(accuracy := measured.get(model), dict):
            ends = [measured.get(f"{model}_{end}") or {} for end in ("low", "high")]
            shares = [
                f"{name} {_number(share)}{_range(*(end.get(name) for end in ends))}"
                for name, share in accuracy.items()
            ]
            lines.append(f"  accuracy of the {model} model: {', '.join(shares)}")
    lines += [f"  {item['text']}" for item in evidence.get("advice") or []]
    return lines


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "—"


def _range(low: Any, high: Any) -> str:
    """The range of a figure among models of the same kind, if known."""
    return "" if low is None or high is None else f" ({_number(low)} to {_number(high)})"


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "—"}[value]


def _safe(request: str) -> str:
    """A request id as the literal beginning of a file name."""
    if not request or not all(letter.isalnum() or letter in "-_." for letter in request):
        raise RequestError(f"got {request!r}, expected the id of a request")
    return request


def _result(path: Path, workspace: Path) -> Result:
    evidence = files.read_json(path)
    influence = evidence.get("residual_influence") or {}
    return Result(
        request=str(evidence.get("request", {}).get("id", path.parent.name)),
        verdict=str(evidence.get("verdict", "inconclusive")),
        reason=str(evidence.get("reason", "")),
        estimate=influence.get("estimate"),
        low=influence.get("low"),
        high=influence.get("high"),
        status=str(evidence.get("status", "audited")),
        report=(path.parent / "report.html").relative_to(workspace).as_posix(),
        outcome=str(evidence.get("outcome", "")),
        original=(evidence.get("self_check") or {}).get("original") or {},
    )
