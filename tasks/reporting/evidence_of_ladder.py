"""The part of `evidence.json` about the ladder: which models were tried, and which is proposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.common.settings import Method
from tasks.reporting.evidence_part import Count, Distance, Part, Share, Verdict

FACTS = ("alpha", "alpha_each", "shared_over", "budget", "proposed", "model", "stopped")
OF_RUNG = ("name", "state", "method", "changes", "references", "cost", "seconds")


class RungReferences(Part):
    """What a rung changes of the models that judge."""

    mode: Literal["batch", "pool", "hybrid"]
    added: Count = Field(
        description="reference models that were trained for this rung; those above it use them, too"
    )


class RungTried(Part):
    """An attempt that was made, or could have been."""

    name: str
    state: Literal["tried", "not_needed", "hopeless", "over_budget"] = Field(
        description="hopeless: for some request no model could pass, because the test cannot tell "
        "even the original from a retrained model"
    )
    method: Method
    changes: dict[str, Any] = Field(description="keys of `unlearn` with other values on this rung")
    references: RungReferences | None = Field(
        None, description="null: judged with the references of the rung below"
    )
    cost: Distance = Field(
        description="in trainings from scratch, each reference added as one; 0 for the exact "
        "retrain, which is trained in any case"
    )
    seconds: Distance | None = Field(description="measured, s; null where it was not tried")
    verdict: Verdict | None = Field(description="on this request; null where it was not tried")
    passed: Count | None = Field(description="requests of the batch that pass")


class LadderClimbed(Part):
    """What was tried, rung by rung, until a model passed for every request of the batch."""

    alpha: Share = Field(description="probability that any of the unlearned models passes wrongly")
    alpha_each: Share = Field(description="error rate at which each attempt is judged")
    shared_over: Annotated[int, Field(ge=1)] = Field(
        description="attempts with an unlearned model that the settings allow, made or not; alpha "
        "is shared out over these (Bonferroni)"
    )
    budget: Distance = Field(description="in trainings from scratch, for all further attempts")
    requests: Annotated[int, Field(ge=1)] = Field(description="of the batch that were judged")
    rungs: Annotated[list[RungTried], Field(min_length=1)]
    proposed: str | None = Field(description="the first rung that passes for everybody, if any")
    model: Literal["unlearned", "retrained"] | None = Field(
        description="the kind of the model proposed"
    )
    stopped: Literal["passed", "hopeless", "over_budget", "exhausted"] = Field(
        description="why nothing further was tried"
    )

    @model_validator(mode="after")
    def _proposes_only_what_passes(self) -> LadderClimbed:
        """A model that is proposed was tried, and passed for every request."""
        passing = [rung.name for rung in self.rungs if rung.passed == self.requests]
        if self.proposed != (passing[0] if passing else None):
            raise ValueError(
                f"got {self.proposed!r} as proposed, and {passing} pass for everybody; run the "
                "stage propose again"
            )
        return self


def climbed(ladder: Mapping[str, Any], request: str) -> dict[str, Any]:
    """The part of a request, from `ladder.json`.

    Args:
        ladder: what the stage `propose` wrote.
        request: id of the request.
    """
    rungs = [
        {
            **{key: rung[key] for key in OF_RUNG},
            "verdict": rung["verdicts"].get(request),
            "passed": list(rung["verdicts"].values()).count("pass") if rung["verdicts"] else None,
        }
        for rung in ladder["rungs"]
    ]
    requests = len(ladder["rungs"][0]["verdicts"])
    return {**{key: ladder[key] for key in FACTS}, "requests": requests, "rungs": rungs}
