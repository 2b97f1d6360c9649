"""Small made-up inputs of the stage `report`: one request for each kind of ending."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from tasks import evidence, settings

BATCH = "spring"
PASS = "0b5f1b1e-6f5a-4c62-9a52-0d2a3a6a0001"
FAIL = "1c6e2c2f-7a6b-4d73-8b63-1e3b4b7b0002"
OPEN = "2d7d3d3a-8b7c-4e84-9c74-2f4c5c8c0003"
BELOW = "3e8c4e4b-9c8d-4f95-8d85-3a5d6d9d0004"
SET_ASIDE = "4f9b5f5c-ad9e-4aa6-9e96-4b6e7eae0005"
SECRET = "writer-7731@example.org"
SETTINGS = settings.parse(
    {"report": {"controller": "Example Clinic", "system": "Digit reader", "holidays": ["2026-12-25"]}}
)


def digest(text: str) -> str:
    """A hash that looks like a real one."""
    return hashlib.sha256(text.encode()).hexdigest()


def interval(estimate: float, half: float) -> dict[str, Any]:
    """An interval around an estimate."""
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half, "confidence": 0.95}


def verdict(kind: str, estimate: float, half: float, caught: bool = True) -> dict[str, Any]:
    """The verdict of one request, as `verify` writes it."""
    state = {"pass": "good", "fail": "bad", "inconclusive": "open"}[kind]
    gates = [
        ("influence", "Is the influence left below the limit?", estimate, 0.5),
        ("memorised", "Is it so on the most memorised records, too?", estimate * 1.1, 0.5),
        ("over_forgetting", "Are the records not marked by over-forgetting?", estimate, -0.5),
        ("utility_control", "Is the model as useful for people it has not seen?", -0.004, -0.03),
        ("utility_retain", "Is it as good on the records that stay?", -0.011, -0.03),
    ]
    shares = {
        "original": [0.05, 0.0, 0.0, 0.85, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0],
        "unlearned": [0.1, 0.05, 0.0, 0.6, 0.15, 0.1, 0.0, 0.0, 0.0, 0.0],
        "retrained": [0.1, 0.0, 0.05, 0.6, 0.2, 0.05, 0.0, 0.0, 0.0, 0.0],
    }
    accuracy = {
        "original": {"forget": 0.98, "retain": 0.991, "control": 0.861},
        "unlearned": {"forget": 0.86, "retain": 0.972, "control": 0.848},
        "retrained": {"forget": 0.84, "retain": 0.99, "control": 0.858},
        "retrained_low": {"forget": 0.78, "retain": 0.981, "control": 0.84},
        "retrained_high": {"forget": 0.9, "retain": 0.996, "control": 0.871},
    }
    reasons = {
        "pass": "Every gate is shown good at an error rate of 5 %: the influence left is below 0.50 and above −0.50.",
        "fail": "The influence left on all records is shown to be above the limit of 0.50 (p < 0.001).",
        "inconclusive": "The interval of the influence reaches over the limit of 0.50, so neither side could be shown.",
    }
    return {
        "verdict": kind,
        "reason": reasons[kind],
        "residual_influence": interval(estimate, half),
        "detectability": 6.1 if caught else 1.2,
        "detection_limit": 0.41 if caught else 2.1,
        "references_needed": 24 if kind == "inconclusive" else None,
        "gates": [
            {
                "name": name,
                "question": question,
                "observed": seen,
                "threshold": limit,
                "p_good": 0.0004,
                "p_bad": 0.93,
                "state": state if index == 0 else "good",
            }
            for index, (name, question, seen, limit) in enumerate(gates)
        ],
        "references": {"with": 17, "without": 17},
        "rank_p": 0.0556,
        "self_check": {
            "original_caught": caught,
            "retrain_cleared": True,
            "original": {**interval(1.02, half), "verdict": "fail" if caught else "inconclusive"},
            "retrained": {**interval(-0.03, half), "verdict": "pass" if caught else "inconclusive"},
        },
        "accuracy": accuracy,
        "prediction_distribution": {"labels": list(range(10)), **shares},
        "influence_points": {
            "unlearned": estimate,
            "original": 1.02,
            "retrained": -0.03,
            "with": [1 + (place - 8) * half / 12 for place in range(17)],
            "without": [(place - 8) * half / 12 for place in range(17)],
        },
        "records": 38,
    }


def entry(request_id: str, position: int, **changes: Any) -> dict[str, Any]:
    """A line of the register."""
    accepted = {
        "request_id": request_id,
        "status": "accepted",
        "reason": None,
        "code": None,
        "regulation": ["gdpr", "ccpa", "lgpd", "pipl", "gdpr"][position % 5],
        "received": f"2026-11-{10 + position:02}T09:30:00+01:00",
        "subject_pseudonym": digest(request_id)[:12],
        "records": 38,
        "labels": {str(label): 4 if label < 8 else 3 for label in range(10)},
        "whole_subject": True,
        "position": position,
    }
    return {**accepted, **changes}


def models() -> list[dict[str, Any]]:
    """The models of the lineage."""
    names = [("original", "original"), ("unlearned", "unlearned"), ("retrained", "retrained")]
    names += [(f"{role}-{seed}", role) for role in ("with", "without") for seed in range(1, 4)]
    seconds = {"original": 6.31, "unlearned": 0.52, "retrained": 6.11}
    return [
        {
            "name": name,
            "role": role,
            "path": f"artifacts/{name}.safetensors",
            "weights_sha256": digest(name),
            "seconds": seconds.get(name, 6.2),
            "device": "cpu",
            "threads": 1,
            "precision": "bf16",
            "torch": "2.13.0",
        }
        for name, role in names
    ]


def check(name: str, sentence: str, **changes: Any) -> dict[str, Any]:
    """A data check that holds."""
    return {"name": name, "sentence": sentence, "passed": True, "severity": "error", "count": 0, **changes}


def inputs() -> dict[str, Any]:
    """Everything that the stage reads, by name."""
    verdicts = {
        PASS: verdict("pass", 0.08, 0.3),
        FAIL: verdict("fail", 0.94, 0.28),
        OPEN: verdict("inconclusive", 0.31, 0.35),
        BELOW: verdict("inconclusive", 0.4, 2.4, caught=False),
    }
    register = [entry(name, place) for place, name in enumerate(verdicts)]
    reason = "No data subject of that identifier is in the manifest. Check the identifier."
    register.append(
        entry(
            SET_ASIDE,
            4,
            status="rejected",
            reason=reason,
            code="unknown_subject",
            records=0,
            labels={},
            subject_pseudonym=None,
            whole_subject=False,
        )
    )
    step = [
        {
            "step": n,
            "phase": "joint",
            "forget_loss": 2.4 * 0.97**n,
            "recover_loss": 0.2 + 0.5 * 0.9**n,
            "forget_weight": 0.5 + n / 100,
            "recover_weight": 1 - n / 200,
            "learning_rate": 0.05,
        }
        for n in range(1, 91)
    ]
    return {
        "verdicts": {"schema_version": 1, "alpha": 0.05, "rho0": 0.5, "requests": verdicts},
        "lineage": {"models": models(), "manifest_sha256": digest("manifest")},
        "register": {"batch_requests": register},
        "data_checks": {
            "checks": [
                check("hashes", "Every image has the hash that the manifest records.", records=[]),
                check("labels", "Every label is one of the classes 0 … 9.", records=[]),
                check("near_duplicates", "No forgotten record has a near-duplicate under another data subject.",
                      passed=False, severity="warning", records=["r000112", "r000398"], count=2),
            ],
            "records": 1797, "subjects": 45, "classes": {str(label): 180 for label in range(10)},
            "manifest_sha256": digest("manifest"),
        },
        "request_checks": {
            "checks": [
                check("subjects_exist", "Every identity belongs to a data subject of the manifest.",
                      passed=False, requests=[SET_ASIDE], count=1),
            ],
            "requests": 5,
        },
        "trace": [{key: str(value) for key, value in row.items()} for row in step],
        "record": {
            "batch": BATCH, "started": "2026-11-21T01:02:03Z", "commit": "3f" * 20, "tool_version": "0.1.0",
            "python": "3.11.2", "platform": "Linux x86_64", "data_md5": "ab" * 16 + ".dir",
            "packages": {"torch": "2.13.0", "weasyprint": "70.0", "numpy": "2.4.1"}, "changed_settings": {},
        },
    }  # fmt: skip


def sources(changed: dict[str, Any] | None = None) -> evidence.Sources:
    """The same as `evidence.Sources`."""
    given = copy.deepcopy(changed or inputs())
    chosen = SETTINGS.unlearn.model_copy(update={"method": given.pop("method", SETTINGS.unlearn.method)})
    return evidence.Sources(batch=BATCH, settings=SETTINGS.model_copy(update={"unlearn": chosen}), **given)


def write(folder: Path, changed: dict[str, Any] | None = None) -> list[str]:
    """Write the inputs as files and return the options of the stage's command, `--out` left out."""
    found = changed or inputs()
    (folder / "check").mkdir(parents=True, exist_ok=True)
    places = {
        "verdicts": "verdicts.json",
        "lineage": "lineage.json",
        "register": "register.json",
        "record": "record.json",
    }
    for name, place in {**places, "data_checks": "check/data.json", "request_checks": "check/requests.json"}.items():
        (folder / place).write_text(json.dumps(found[name]), encoding="utf-8")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found["trace"][0]) if found["trace"] else ["step"])
    writer.writeheader()
    writer.writerows(found["trace"])
    (folder / "trace.csv").write_text(text.getvalue(), encoding="utf-8")
    (folder / "params.yaml").write_text(json.dumps(SETTINGS.model_dump(mode="json")), encoding="utf-8")
    options = {name: folder / place for name, place in places.items()}
    options |= {"checks": folder / "check", "trace": folder / "trace.csv", "params": folder / "params.yaml"}
    options |= {"templates": Path(__file__).parents[1] / "reports" / "templates"}
    return ["--batch", BATCH, *(word for name, path in options.items() for word in (f"--{name}", str(path)))]
