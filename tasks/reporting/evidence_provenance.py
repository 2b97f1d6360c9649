"""Where the numbers of the evidence come from: data checks, data set, software, settings, and how
to check the audit again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.common import settings
from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.reporting.evidence_sources import Sources, moment, plain, take

OF_DATA = ("records", "subjects", "classes", "manifest_sha256")
OF_RECORD = ("started", "commit", "tool_version", "python", "platform", "packages")


def checks(sources: Sources, request_id: str) -> dict[str, Any]:
    """The data checks; of the requests found at fault only whether this one is among them."""

    def one(check: Mapping[str, Any]) -> dict[str, Any]:
        named = check.get("requests", [])
        return {"records": [], "count": len(named), **check, "this_request": request_id in named}

    return {
        "data": [one(check) for check in take(sources.data_checks, "checks", "data.json")],
        "requests": [
            one(check) for check in take(sources.request_checks, "checks", "requests.json")
        ],
    }


def data_set(sources: Sources) -> dict[str, Any]:
    """Size and hashes of the data set, which the checks and the scores have to agree on."""
    facts = {key: take(sources.data_checks, key, "data.json") for key in OF_DATA}
    if facts["manifest_sha256"] != take(sources.lineage, "manifest_sha256", "lineage.json"):
        raise EvidenceError(
            "data.json and lineage.json are of different manifests; run `erasure-audit run` again"
        )
    names = sources.data_checks.get("class_names")  # audits of earlier versions have none
    if names == [str(number) for number in range(len(names or ()))]:
        names = None
    data_md5 = take(sources.record, "data_md5", "the batch record")
    return {**facts, "class_names": names, "data_md5": data_md5}


def provenance(sources: Sources) -> dict[str, Any]:
    """Software, machine, seeds and settings."""
    chosen = sources.settings
    judges = sources.reported_settings.references
    moment(take(sources.record, "started", "the batch record"))
    return {
        **{key: take(sources.record, key, "the batch record") for key in OF_RECORD},
        "tag": f"audit/{sources.batch}",
        "devices": sorted(
            {
                entry["device"]
                for entry in take(sources.lineage, "models", "lineage.json")
                if entry.get("device")
            }
        ),
        "seed": chosen.seed,
        "reference_seeds": {
            "with": judges.seeds_per_block * len(judges.with_blocks),
            "without": judges.seeds_per_block * len(judges.without_blocks),
        },
        "settings": chosen.model_dump(mode="json"),
        "settings_changed": plain(settings.non_defaults(chosen)),
        "signing": sources.record.get("signing"),
    }


def reproduction(batch: str) -> list[dict[str, Any]]:
    """Three ways to check the audit again, from the cheapest to the dearest."""
    checkout = f"git checkout audit/{batch}"
    reproduce = f"erasure-audit reproduce {batch} --level"
    return [
        {
            "level": "integrity",
            "shows": say("Every file is the one that was recorded: all hashes match."),
            "needs": say("the repository and its DVC store"),
            "commands": [f"{reproduce} integrity"],
        },
        {
            "level": "rederive",
            "shows": say("Verdict and report follow from the stored scores, byte for byte."),
            "needs": say(
                "the stored scores; no personal data, so it still works once the records are erased"
            ),
            "commands": [
                f"{reproduce} rederive",
                f"{checkout} && dvc repro --single-item --force verify propose report",
            ],
        },
        {
            "level": "reexecute",
            "shows": say("Everything computed anew from the records gives the same result."),
            "needs": say(
                "all records; identical hashes on the same class of machine, elsewhere figures "
                "within their intervals: a verdict at a limit can differ"
            ),
            "commands": [f"{reproduce} reexecute", f"{checkout} && dvc pull && dvc repro --force"],
        },
    ]
