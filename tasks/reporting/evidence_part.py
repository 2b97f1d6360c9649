"""What all parts of `evidence.json` are made of: strict models, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["pass", "fail", "inconclusive"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Distance = Annotated[float, Field(ge=0)]
Shares = Annotated[list[Share], Field(min_length=2, max_length=2, description="lowest and highest")]
Numbers = Annotated[
    list[float], Field(min_length=2, max_length=2, description="lowest and highest")
]
Counted = Annotated[
    list[Count], Field(min_length=2, max_length=2, description="lowest and highest")
]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Severity = Literal["error", "warning"]


class Part(BaseModel):
    """A part of the evidence: numbers are finite, types are exact, keys that the shape does not
    name are left out."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Unmeasured(Part):
    """What could not be measured, and why."""

    reason: str = Field(min_length=1)
