"""Small made-up inputs of the stage `report`: one request for each kind of ending."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from tasks.common import language, settings
from tasks.common.language import in_a_row, say
from tasks.reporting import evidence_sources
from tasks.resolve import REASONS
from tasks.verification import reasons
from tasks.verification.contrast import InfluenceInterval
from tasks.verification.gates import GateTest, JudgedModel

BATCH = "spring"
PASS = "0b5f1b1e-6f5a-4c62-9a52-0d2a3a6a0001"
FAIL = "1c6e2c2f-7a6b-4d73-8b63-1e3b4b7b0002"
OPEN = "2d7d3d3a-8b7c-4e84-9c74-2f4c5c8c0003"
BELOW = "3e8c4e4b-9c8d-4f95-8d85-3a5d6d9d0004"
SET_ASIDE = "4f9b5f5c-ad9e-4aa6-9e96-4b6e7eae0005"
UNJUDGED = "5a0a6a6d-be0f-4bb7-8fa7-5c7f8fbf0006"
WEAK = "6b1b7b7e-cf1a-4cc8-9ab8-6d8a9aca0007"
REQUESTS = (PASS, FAIL, OPEN, BELOW, SET_ASIDE, UNJUDGED, WEAK)
SECRET = "writer-7731@example.org"
SETTINGS = settings.parse(
    {
        "report": {
            "controller": "Example Clinic",
            "system": "Digit reader",
            "holidays": ["2026-12-25"],
            "identity_check": "Two documents, seen by the front desk",
            "recipients": [{"name": "Research group", "disclosed": "images of 2025"}],
            "processors": [{"name": "Hosting company", "task": "stores the images"}],
            "backups": [{"name": "weekly tape", "days": 35}],
            "out_of_scope": [
                {"model": "mobile reader", "why": "it was trained on bought data only"}
            ],
        }
    }
)


def digest(text: str) -> str:
    """A hash that looks like a real one."""
    return hashlib.sha256(text.encode()).hexdigest()


def interval(estimate: float, half: float) -> dict[str, Any]:
    """An interval around an estimate."""
    return {
        "estimate": estimate,
        "low": estimate - half,
        "high": estimate + half,
        "confidence": 0.9,
    }


def verdict(kind: str, estimate: float, half: float, caught: bool = True) -> dict[str, Any]:
    """The verdict of one request, as `verify` writes it."""
    state = {"pass": "good", "fail": "bad", "inconclusive": "open"}[kind]
    gates = [
        ("influence", "Is the influence left below the margin, on all records?", estimate, 0.5),
        ("memorised", "Is it below the margin on the most memorised records?", estimate * 1.1, 0.5),
        (
            "over_forgetting",
            "Is the model about as sure of the records as retrained models are, and not less "
            "(over-forgetting)?",
            estimate,
            -0.5,
        ),
        (
            "utility_control",
            "Is accuracy on people whom no model saw kept, within the margin?",
            0.848,
            0.807,
        ),
        (
            "utility_retain",
            "Is accuracy on retained records kept, within the margin?",
            0.972,
            0.939,
        ),
    ]
    held = {"equal_variances": True, "equal_p": 0.44, "normal": True, "normal_p": 0.31}
    return {
        **beside(),
        "verdict": kind,
        "reason": reason(kind, gates, InfluenceInterval(**interval(estimate, half)), caught),
        "p_pass": 0.0004 if kind == "pass" else 1.0,
        "register": {"q_pass": 0.0028 if kind == "pass" else 1.0, "holds": kind == "pass"},
        "assumptions": {
            "usual_confidence": True,
            "all": held,
            "memorised": {**held, "normal": False, "normal_p": 0.004},
        },
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
        "influence_points": {
            "unlearned": estimate,
            "original": 1.02,
            "retrained": -0.03,
            "with": [1 + (place - 8) * half / 12 for place in range(17)],
            "without": [(place - 8) * half / 12 for place in range(17)],
        },
        "records": 38,
    }


def reason(
    kind: str, gates: list[tuple[str, str, float, float]], span: InfluenceInterval, caught: bool
) -> language.Sentence:
    """The reason of a verdict in which the first gate decides, in the words of `verify`."""
    if not caught:
        return reasons.undetectable(1.2, 2.1, None, 17)
    if kind == "inconclusive":
        tests = [
            GateTest(name, say(question), seen, limit, None, 1.0, "good" if index else "open")
            for index, (name, question, seen, limit) in enumerate(gates)
        ]
        return reasons.undecided(JudgedModel("inconclusive", span, tuple(tests)), 24, 17)
    first = {
        "pass": say(
            "On these records the model behaves like models that never saw them, within "
            "±{margin:g}.",
            margin=0.5,
        ),
        "fail": say("The records still influence the model."),
    }
    return in_a_row([first[kind], reasons.in_words(span)])


def beside() -> dict[str, Any]:
    """What `verify` tells beside the verdict of a request."""
    return {
        "accuracy": {
            "original": {"forget": 0.98, "retain": 0.991, "control": 0.861},
            "unlearned": {"forget": 0.86, "retain": 0.972, "control": 0.848},
            "retrained": {"forget": 0.84, "retain": 0.99, "control": 0.858},
            "retrained_low": {"forget": 0.78, "retain": 0.981, "control": 0.84},
            "retrained_high": {"forget": 0.9, "retain": 0.996, "control": 0.871},
        },
        "prediction_distribution": {
            "labels": list(range(10)),
            "original": [0.05, 0.0, 0.0, 0.85, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0],
            "unlearned": [0.1, 0.05, 0.0, 0.6, 0.15, 0.1, 0.0, 0.0, 0.0, 0.0],
            "retrained": [0.1, 0.0, 0.05, 0.6, 0.2, 0.05, 0.0, 0.0, 0.0, 0.0],
            "retrained_low": [0.05, 0.0, 0.0, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0],
            "retrained_high": [0.2, 0.05, 0.1, 0.7, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0],
            "distance": {"original": 0.25, "unlearned": 0.1, "band": [0.05, 0.17]},
        },
        "score_distribution": {
            "edges": [-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0],
            "original": [0.0, 0.0, 0.03, 0.07, 0.2, 0.4, 0.2, 0.1],
            "unlearned": [0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.05, 0.0],
            "retrained": [0.06, 0.09, 0.22, 0.31, 0.17, 0.1, 0.05, 0.0],
            "median": {"original": 7.1, "unlearned": 3.2, "retrained": 3.0, "band": [2.1, 3.9]},
        },
        "attacks": [
            attack(
                "lira_online",
                "LiRA (online)",
                "Carlini et al. 2022",
                (0.97, 0.55, 0.49),
                [0.41, 0.61],
                [0, 5],
            ),
            attack(
                "lira_offline",
                "LiRA (offline)",
                "Carlini et al. 2022",
                (0.91, 0.57, 0.5),
                [0.39, 0.6],
                [0, 6],
            ),
            attack(
                "rmia", "RMIA", "Zarifzadeh et al. 2024", (0.95, 0.66, 0.51), [0.42, 0.6], [1, 4]
            ),
            attack(
                "population",
                "Population attack (logistic regression)",
                "after Ye et al. 2022",
                (0.8, 0.58, 0.56),
                [0.5, 0.63],
                [0, 4],
            ),
        ],
    }


def attack(
    name: str,
    title: str,
    source: str,
    auc: tuple[float, float, float],
    band: list[float],
    hits: list[int],
) -> dict[str, Any]:
    """An attack as `verify` writes it; `auc` of the original, the unlearned and the retrained
    model."""
    many = name == "population"
    return {
        "name": name,
        "title": title,
        "source": source,
        "auc": dict(zip(("original", "unlearned", "retrained"), auc, strict=True)),
        "auc_interval": [auc[1] - 0.09, auc[1] + 0.09],
        "auc_band": band,
        "flagged": {"original": 31, "unlearned": 4, "retrained": 2},
        "flagged_band": hits,
        "flagged_rate": 0.05,
        "records": 38,
        "non_members": 480 if many else 608,
        "tpr_at_fpr": [
            {"fpr": 0.1, "tpr": 0.16, "low": 0.06, "high": 0.31, "false_positives_expected": 48.0}
        ]
        if many
        else [],
        "outside_band": not band[0] <= auc[1] <= band[1],
    }


def unjudged() -> dict[str, Any]:
    """The verdict of a request that no test could be made for, as `verify` writes it."""
    nothing: dict[str, Any] = {"estimate": None, "low": None, "high": None}
    return {
        **beside(),
        "verdict": "inconclusive",
        "reason": say(
            "No test could be made: {why}.",
            why=say(
                "classes {classes} have no record of a control subject; more control subjects "
                "are needed (split.control)",
                classes="7",
            ),
        ),
        "p_pass": 1.0,
        "register": {"q_pass": 1.0, "holds": False},
        "residual_influence": {**nothing, "confidence": 0.9},
        "detectability": None,
        "detection_limit": None,
        "references_needed": None,
        "gates": [],
        "references": {"with": 17, "without": 17},
        "assumptions": None,
        "rank_p": None,
        "self_check": {
            "original_caught": False,
            "retrain_cleared": False,
            "original": {**nothing, "verdict": "inconclusive"},
            "retrained": {**nothing, "verdict": "inconclusive"},
        },
        "influence_points": {
            "unlearned": None,
            "original": None,
            "retrained": None,
            "with": [],
            "without": [],
        },
        "records": 38,
    }


def screened(state: str) -> dict[str, Any]:
    """The verdict of a screening, `bad` or `open`, without any retrained model, as `verify` writes
    it."""
    result = beside()
    for key in ("retrained", "retrained_low", "retrained_high"):
        del result["accuracy"][key]
        result["prediction_distribution"][key] = None
    result["prediction_distribution"]["distance"] = None
    result["score_distribution"]["retrained"] = None
    result["score_distribution"]["median"].update(retrained=None, band=None)
    t, p, limit = (3.1, 0.002, 2.2) if state == "bad" else (0.4, 0.35, 2.2)
    gates = (
        (
            "screening_known",
            "Do the records look like those that the model was trained on?",
            t,
            p,
            state,
        ),
        (
            "screening_strange",
            "Do the records look stranger than strangers' records?",
            -t,
            1 - p,
            "open",
        ),
    )
    reasons = {
        "bad": say(
            "Screening: the model still knows the records. It rates them {distance:.2f} standard "
            "deviations above the records of strangers; the limit is {limit:.2f}.",
            distance=t,
            limit=limit,
        ),
        "open": say(
            "Screening: nothing was found. The model rates the records {distance:.2f} standard "
            "deviations from the records of strangers; the limit is {limit:.2f}, above or below. A "
            "screening has no references and cannot pass anybody.",
            distance=t,
            limit=limit,
        ),
    }
    return {
        **unjudged(),
        **result,
        "attacks": {
            "reason": "got 0 references trained with everybody, expected at least 2; add blocks"
        },
        "verdict": "fail" if state == "bad" else "inconclusive",
        "reason": reasons[state],
        "references": {"with": 0, "without": 0},
        "gates": [
            {
                "name": name,
                "question": asked,
                "observed": t,
                "threshold": limit,
                "p_good": 1.0,
                "p_bad": p,
                "state": kind,
            }
            for name, asked, t, p, kind in gates
        ],
    }


def group(column: str, value: str, **changes: Any) -> dict[str, Any]:
    """A group of unseen people."""
    return {
        "column": column,
        "value": value,
        "records": 48,
        "subjects": 12,
        "original": 0.9,
        "unlearned": 0.88,
        "retrained_mean": 0.89,
        "retrained_low": 0.85,
        "retrained_high": 0.94,
        "p_worse": 0.41,
        "worse": False,
        **changes,
    }


def told() -> dict[str, Any]:
    """What `verify` tells of the batch as a whole."""
    groups = [group("class", str(label), p_worse=0.05 + 0.09 * label) for label in range(10)]
    groups += [
        group("site", "north", unlearned=0.71, p_worse=0.0003, worse=True),
        group("site", "south"),
    ]
    return {
        "exposure": {
            "auc": {"original": 0.641, "unlearned": 0.633, "retrained": 0.639},
            "auc_band": [0.618, 0.652],
            "auc_mean": 0.636,
            "p_worse": 0.61,
            "subjects": 29,
            "subjects_worse": 0,
            "largest": 2.2,
            "level": 0.025,
            "alpha": 0.05,
            "worsened": False,
        },
        "groups": groups,
        "control_loss": {"estimate": 0.011, "low": -0.008, "high": 0.03, "confidence": 0.9},
    }


def probes(requests: list[str]) -> dict[str, Any]:
    """What the stage `probe` writes."""
    return {
        "schema_version": 1,
        "references": 8,
        "retained_records": 900,
        "requests": {
            name: {
                "records": 38,
                "linear_probe": {
                    "original": 0.97,
                    "unlearned": 0.95,
                    "retrained": 0.84,
                    "band": [0.79, 0.9],
                    "reason": None,
                },
                "cka": {"original": 0.71, "unlearned": 0.76, "band": [0.72, 0.85], "reason": None},
            }
            for name in requests
        },
        "relearn": {
            "steps": {"original": 0, "unlearned": 6, "retrained": 21, "band": [17, 200]},
            "most": 200,
            "learning_rate": 0.01,
            "target": 0.21,
            "reason": None,
        },
    }


def screening(state: str) -> dict[str, Any]:
    """Everything that the stage reads after a screening, which no references were trained for."""
    stage_files = inputs()
    stage_files["mode"] = "screening"
    del stage_files["register"]["batch_requests"][1:]
    stage_files["verdicts"]["requests"] = {PASS: screened(state)}
    missing = {"reason": "got 0 references without the forget set, expected at least 4; add blocks"}
    stage_files["verdicts"]["batch"] = {
        "exposure": missing,
        "groups": missing,
        "control_loss": missing,
    }
    stage_files["lineage"]["models"] = stage_files["lineage"]["models"][:2]
    stage_files["probes"] = {}
    return stage_files


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
        "languages": [],
        "position": position + 1,
    }
    return {**accepted, **changes}


def models() -> list[dict[str, Any]]:
    """The models of the lineage."""
    names = [("original", "original"), ("unlearned", "unlearned"), ("retrained", "retrained")]
    names += [(f"{role}-{seed}", role) for role in ("with", "without") for seed in range(1, 18)]
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
    return {
        "name": name,
        "sentence": sentence,
        "passed": True,
        "severity": "error",
        "count": 0,
        **changes,
    }


def inputs() -> dict[str, Any]:
    """Everything that the stage reads, by name."""
    verdicts = {
        PASS: verdict("pass", 0.08, 0.3),
        FAIL: verdict("fail", 0.94, 0.28),
        OPEN: verdict("inconclusive", 0.31, 0.35),
        BELOW: verdict("inconclusive", 0.4, 2.4, caught=False),
        UNJUDGED: unjudged(),
        WEAK: {
            **verdict("pass", 0.12, 0.37),
            "p_pass": 0.041,
            "register": {"q_pass": 0.14, "holds": False},
        },
    }
    positions = {PASS: 0, FAIL: 1, OPEN: 2, BELOW: 3, UNJUDGED: 5, WEAK: 6}
    register = [entry(name, place) for name, place in positions.items()]
    reason = REASONS["unknown_subject"]
    register.insert(
        4,
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
        ),
    )
    step = [
        {
            "step": n,
            "phase": "joint",
            "forget_loss": 2.4 * 0.97**n,
            "recover_loss": 0.2 + 0.5 * 0.9**n,
            "forget_weight": 0.5 + n / 100,
            "recover_weight": 1 - n / 200,
            "reset": 0.64,
            "learning_rate": 0.05,
        }
        for n in range(1, 91)
    ]
    return {
        "verdicts": {
            "schema_version": 3, "alpha": 0.05, "rho0": 0.5, "batch": told(), "requests": verdicts
        },
        "probes": probes(list(verdicts)),
        "lineage": {
            "models": models(),
            "manifest_sha256": digest("manifest"),
            "history": {"unlearnings": 0, "forgotten": 0, "trained": 1158},
            "batch": {"forgotten": 228, "retained": 930},
        },
        "register": {"batch_requests": register},
        "data_checks": {
            "checks": [
                check("file_decodes",
                      "every image file decodes whole (if not it is truncated or no image: "
                      "restore it or remove its record)", records=[]),
                check("classes_present", "every class has records", records=[]),
                check("near_duplicates",
                      "no record of another data subject looks the same as one to be forgotten",
                      passed=False, severity="warning", records=["r000112", "r000398"], count=2),
            ],
            "records": 1797, "subjects": 45, "classes": {str(label): 180 for label in range(10)},
            "manifest_sha256": digest("manifest"),
        },
        "request_checks": {
            "checks": [
                check("request_subject_known",
                      "every well-formed request names one data subject of the data set",
                      passed=False, requests=[SET_ASIDE], count=1),
            ],
            "requests": 7,
        },
        "trace": [{key: str(value) for key, value in row.items()} for row in step],
        "record": {
            "batch": BATCH, "started": "2026-11-21T01:02:03Z", "commit": "3f" * 20,
            "tool_version": "0.1.0",
            "python": "3.11.2", "platform": "Linux x86_64", "data_md5": "ab" * 16 + ".dir",
            "packages": {"torch": "2.13.0", "typst": "0.15.2", "numpy": "2.4.1"},
            "changed_settings": {},
            "remotes": ["archive"],
        },
        "decisions": {"approvals": [], "erasure": [], "exceptions": [], "notices": []},
    }  # fmt: skip


@cache
def chinese() -> language.Language:
    """The Chinese catalogue."""
    templates = Path(__file__).parents[2] / "reports" / "templates"
    return language.Language.load("zh", templates / "locales")


def as_sentences(value: Any) -> Any:
    """The same with every text that is a message as a sentence, as the stages make it."""
    if isinstance(value, dict):
        return {
            key: item if key == language.SENTENCES else as_sentences(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [as_sentences(item) for item in value]
    is_message = type(value) is str and value and "{" not in value
    return say(value) if is_message and chinese().gettext(value) != value else value


def sources(changed: dict[str, Any] | None = None) -> evidence_sources.Sources:
    """The same as `evidence_sources.Sources`."""
    given = as_sentences(copy.deepcopy(changed or inputs()))
    return evidence_sources.Sources(batch=BATCH, settings=chosen(given), **given)


def chosen(given: dict[str, Any]) -> settings.Settings:
    """The settings, with the method and the mode of verification that the inputs ask for; they are
    taken out."""
    method, mode = (
        given.pop(name, default) for name, default in (("method", "fcalb"), ("mode", "references"))
    )
    unlearn = SETTINGS.unlearn.model_copy(update={"method": method})
    verify = SETTINGS.verify.model_copy(update={"mode": mode})
    return SETTINGS.model_copy(update={"unlearn": unlearn, "verify": verify})


def erased(request_id: str = PASS) -> dict[str, Any]:
    """The decisions on a request that was approved and whose copies were all erased, a backup after
    some time."""

    def gone(store: str, **changes: Any) -> dict[str, Any]:
        return {
            "at": "2026-11-24T10:00:00Z",
            "by": "K. Okafor",
            "request": request_id,
            "store": store,
            "state": "erased",
            "receipt": f"log of the erasure, line {len(store)}",
            **changes,
        }

    stores = ("workspace", "dvc_cache", "dvc_remote:archive", "original_model", "reference_models")
    return {
        "approvals": [approval(request_id)],
        "erasure": [
            *map(gone, stores),
            gone("backup:weekly tape", state="expires", expires_on="2026-12-29"),
        ],
        "notices": [
            {
                "at": "2026-11-24T11:00:00Z",
                "by": "K. Okafor",
                "request": request_id,
                "to": "Research group",
            }
        ],
        "exceptions": [],
    }


def approval(request_id: str, decision: str = "approve", by: str = "M. Laurent") -> dict[str, Any]:
    """A data protection officer's decision."""
    return {
        "at": "2026-11-23T16:20:00+01:00",
        "by": by,
        "request": request_id,
        "role": "Data protection officer",
        "decision": decision,
        "comment": "The interval lies within the limits.",
    }


def write(folder: Path, changed: dict[str, Any] | None = None) -> list[str]:
    """Write the inputs as files and return the options of the stage's command, `--out` left out."""
    stage_files = as_sentences(changed or inputs())
    (folder / "check").mkdir(parents=True, exist_ok=True)
    paths = {
        "verdicts": "verdicts.json",
        "lineage": "lineage.json",
        "register": "register.json",
        "record": "record.json",
        "probes": "probes.json",
        "decisions": "decisions.json",
    }
    for name, place in {
        **paths,
        "data_checks": "check/data.json",
        "request_checks": "check/requests.json",
    }.items():
        content = stage_files[name]
        if name not in ("record", "decisions", "lineage"):
            content = language.with_sentences(content)
        (folder / place).write_text(json.dumps(content), encoding="utf-8")
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(stage_files["trace"][0]) if stage_files["trace"] else ["step"]
    )
    writer.writeheader()
    writer.writerows(stage_files["trace"])
    (folder / "trace.csv").write_text(text.getvalue(), encoding="utf-8")
    (folder / "params.yaml").write_text(
        json.dumps(SETTINGS.model_dump(mode="json")), encoding="utf-8"
    )
    options = {name: folder / place for name, place in paths.items()}
    options |= {
        "checks": folder / "check",
        "trace": folder / "trace.csv",
        "params": folder / "params.yaml",
    }
    options |= {"templates": Path(__file__).parents[2] / "reports" / "templates"}
    return [
        "--batch",
        BATCH,
        *(word for name, path in options.items() for word in (f"--{name}", str(path))),
    ]
