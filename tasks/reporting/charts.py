"""What the report's pictures need beside the evidence: scales, ranges, and where labels find
room."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.common.language import Language

MOST_GROUPS = 20
"""A report shows so many groups at most; all of them are in its evidence."""
ORDER = ("received", "started", "refused", "approved", "erased", "deadline")
"""Of events on one day."""


@dataclass(frozen=True)
class LinearScale:
    """A straight scale from values to a picture's coordinates; values beyond the ends are put on
    the end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of `value`, to a tenth of a pixel."""
        inside = min(max(value, self.low), self.high)
        return round(
            self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start), 1
        )

    def beyond(self, value: float) -> bool:
        """True where `value` lies outside the scale."""
        return not self.low <= value <= self.high


def influence_range(item: dict[str, Any]) -> tuple[float, float]:
    """The part of the residual-influence axis to show: -1 … 1.5, wider where need be, but within
    -2.5 … 3."""
    points, trials = item["influence_points"], item["self_check"]
    shown = (
        [points[name] for name in ("unlearned", "original", "retrained")]
        + points["with"]
        + points["without"]
    )
    for interval in (item["residual_influence"], trials["original"], trials["retrained"]):
        shown += [interval["low"], interval["high"]]
    measured = [value for value in shown if value is not None]
    return max(-2.5, min([-1.0, *measured]) - 0.05), min(3.0, max([1.5, *measured]) + 0.05)


def loss_range(values: Sequence[float | None]) -> tuple[float, float]:
    """From zero, or the lowest loss below it, to the highest; never of no width."""
    measured = [value for value in values if value is not None]
    low, high = min([0.0, *measured]), max([0.0, *measured])
    return low, high if high > low else low + 1.0


def drawn_losses(trace: Mapping[str, Sequence[Any]]) -> list[str]:
    """The losses that a method has, of the two that are drawn."""
    return [
        name
        for name in ("forget_loss", "recover_loss")
        if any(value is not None for value in trace[name])
    ]


def round_values(low: float, high: float, most: int = 6) -> list[float]:
    """Round values inside a range for the ticks of an axis, at most `most` + 1, in steps of 1, 2 or
    5 times 10 to n."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if rough <= factor * power)
    return [
        round(index * step, 9)
        for index in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def shares(distribution: dict[str, Any], most: int = 10) -> list[dict[str, Any]]:
    """The classes to draw: the `most` that some model predicts most often, in their order, the rest
    as one.

    The rest has no range of the retrained models: lowest and highest of single classes do not add
    up.
    """
    models = [
        model for model in ("original", "unlearned", "retrained") if distribution[model] is not None
    ]
    keys = [
        key for key in (*models, "retrained_low", "retrained_high") if distribution[key] is not None
    ]
    lines: list[dict[str, Any]] = [
        {"label": str(label), **{key: distribution[key][position] for key in keys}}
        for position, label in enumerate(distribution["labels"])
    ]
    ranked = sorted(
        range(len(lines)),
        key=lambda position: (-max(lines[position][model] for model in models), position),
    )
    drawn = [
        position for position in ranked[:most] if any(lines[position][model] for model in models)
    ]
    rest = [line for position, line in enumerate(lines) if position not in drawn]
    other = {
        "label": "other",
        **{model: min(1.0, sum(line[model] for line in rest)) for model in models},
    }
    return [lines[position] for position in sorted(drawn)] + (
        [other] if any(other[model] for model in models) else []
    )


def place_in(value: float, band: Sequence[float] | None) -> str:
    """Where a value lies against the range of the retrained models: inside, above or below; empty
    without a range."""
    if band is None:
        return ""
    return "above" if value > band[1] else "below" if value < band[0] else "inside"


def worst_first(groups: Sequence[dict[str, Any]], most: int = MOST_GROUPS) -> list[dict[str, Any]]:
    """The groups to show: those that are worse, then the least likely by chance; at most `most`."""
    return sorted(groups, key=lambda group: (not group["worse"], group["p_worse"]))[:most]


def happened(
    item: dict[str, Any], names: Mapping[str, str], language: Language
) -> list[dict[str, Any]]:
    """What happened to a request so far, and its deadline, in the order of time.

    Args:
        item: the evidence.
        names: of the events received, started, approved, refused, erased and deadline, as the
            reader knows them.
        language: writes the dates.

    Returns:
        Of each its `kind`, `name`, `date` in words, and `days` since the first.
    """
    moments = {"started": item["provenance"]["started"]}
    with contextlib.suppress(
        TypeError, ValueError
    ):  # a request that was set aside may have no valid time of receipt
        datetime.fromisoformat(item["request"]["received"])
        moments["received"] = item["request"]["received"]
    if item["approvals"]:
        refused = [
            approval["at"] for approval in item["approvals"] if approval["decision"] == "refuse"
        ]
        moments |= (
            {"refused": refused[-1]} if refused else {"approved": item["approvals"][-1]["at"]}
        )
    if item["completed"]:
        moments["erased"] = item["completed"]
    if item["deadline"]["date"]:
        moments["deadline"] = item["deadline"]["date"]
    days = {kind: datetime.fromisoformat(at[:10]) for kind, at in moments.items()}
    first = min(days.values())
    return [
        {
            "kind": kind,
            "days": (days[kind] - first).days,
            "name": names[kind],
            "date": language.day(moments[kind]),
        }
        for kind in sorted(moments, key=lambda kind: (days[kind], ORDER.index(kind)))
    ]


HELPERS = {
    "drawn_losses": drawn_losses,
    "happened": happened,
    "influence_range": influence_range,
    "linear": LinearScale,
    "loss_range": loss_range,
    "place_in": place_in,
    "round_values": round_values,
    "shares": shares,
    "worst_first": worst_first,
}
"""By the names that the templates call them."""
