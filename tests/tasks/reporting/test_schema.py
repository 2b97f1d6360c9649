"""The schema of the evidence is published and versioned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tasks.reporting import build_evidence, evidence_schema
from tests.worlds import fabricated

ROOT = Path(__file__).parents[3]
PUBLISHED = json.loads((ROOT / evidence_schema.SCHEMA).read_text(encoding="utf-8"))


def conforms(found: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(PUBLISHED).validate(found)


def test_the_published_schema_names_its_version() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    assert PUBLISHED["$id"] == f"urn:erasure-audit:evidence:{evidence_schema.SCHEMA_VERSION}"


@pytest.mark.parametrize(
    "item", build_evidence.build_all(fabricated.sources()), ids=lambda item: str(item["outcome"])
)
def test_evidence_of_every_ending_conforms_to_the_published_schema(item: dict[str, Any]) -> None:
    conforms(item)
    with pytest.raises(jsonschema.ValidationError):
        conforms({**item, "schema_version": evidence_schema.SCHEMA_VERSION - 1})
    with pytest.raises(jsonschema.ValidationError):
        conforms({key: value for key, value in item.items() if key != "reason"})
