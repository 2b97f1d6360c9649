"""The part of `evidence.json` about its origin: data, checks, software, keys."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tasks.reporting.evidence_part import Hash, Part, Severity


class Check(Part):
    """One data check in a sentence with its result."""

    name: str
    sentence: str
    passed: bool
    severity: Severity
    count: int = Field(ge=0, description="records or requests that the check found")
    records: list[str] = Field(description="at most 20 record ids")
    this_request: bool = Field(description="this request is among those found")


class Checks(Part):
    """The checks of the data set and of the batch's requests."""

    data: list[Check]
    requests: list[Check]


class DataSet(Part):
    """The data set as a whole."""

    records: int
    subjects: int
    classes: dict[str, int]
    class_names: list[str] | None = Field(
        None,
        description="names of the classes 0, 1, …, those without a record included; null: they have"
        " no names but their numbers",
    )
    manifest_sha256: Hash
    data_md5: str


class Signing(Part):
    """The key that signs the report. The signature is in the signed files and not in this
    evidence."""

    algorithm: str
    key_id: Hash = Field(description="SHA-256 of the public key")
    development: bool = Field(description="a key for trying out, which vouches for nobody")


class Level(Part):
    """One way to check this audit again."""

    level: Literal["integrity", "rederive", "reexecute"]
    shows: str
    needs: str
    commands: list[str]


class Provenance(Part):
    """Where every number comes from."""

    started: str
    commit: str | None = Field(description="commit that the run started from")
    tag: str = Field(description="tag that closes the batch")
    tool_version: str
    python: str
    platform: str
    packages: dict[str, str]
    devices: list[str]
    seed: int
    reference_seeds: dict[str, int] = Field(description="models per kind, seeds 0 … n - 1")
    settings: dict[str, Any]
    settings_changed: dict[str, Any]
    signing: Signing | None = None


class Phrase(Part):
    """What a sentence of this file was made of, so that it can be told in another language."""

    message: str = Field(description="English, with {name} or {name:format} where a value goes")
    values: dict[str, str | int | float | Phrase]
