"""Settings of an audit that the rejection of the previous batch asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from flows.pipeline import close_batch
from flows.register.register import Event, Register, State
from flows.release.standing import Next, SignoffError
from flows.workspace import shell
from tasks.common import settings


def wishes(register: Register) -> dict[str, Any]:
    """Settings that the last rejection asked for. They hold until a batch is audited with them."""
    return _requested_settings(register.history())


def wishes_of(register: Register, batch: str) -> dict[str, Any]:
    """The settings of a batch that the previous rejection asked for."""
    events = register.history()
    audited_at = next(
        (
            number
            for number, event in enumerate(events)
            if _is_audit(event) and event.batch == batch
        ),
        None,
    )
    return _requested_settings(events[:audited_at]) if audited_at is not None else {}


def next_settings(home: Path, batch: str, next_step: Next, method: str | None) -> dict[str, Any]:
    """The settings of the next audit that differ from those of this one.

    Raises:
        SignoffError: such an audit is impossible.
    """
    if (method is not None) != (next_step == "another_method"):
        raise SignoffError("a method is named with --next another_method, and only there")
    if next_step == "another_method":
        methods = [name for name in get_args(settings.Method) if name != "none"]
        current_method = _settings(home, batch).unlearn.method
        if method not in methods or method == current_method:
            other_methods = ", ".join(name for name in methods if name != current_method)
            raise SignoffError(
                f"this batch was unlearned by {current_method}; expected another method, one of "
                f"{other_methods}"
            )
        return {"unlearn.method": method}
    if next_step != "more_references":
        return {}
    current = _settings(home, batch)
    if current.verify.mode == "screening":
        raise SignoffError(
            "the batch was only screened, without references; set verify.mode=references and "
            "references.* in params.yaml, commit, and reject with --next requeue"
        )
    blocks = len(current.references.without_blocks) + 1
    # references of an earlier batch cannot be extended, so a larger set is trained again
    return {
        **({"references.mode": "batch"} if current.references.mode != "batch" else {}),
        "references.with_from": settings.TRAINED,
        "references.with_blocks": list(range(blocks)),
        "references.without_blocks": list(range(blocks)),
    }


def refuse_without_retrain(home: Path, batch: str) -> None:
    """Check that there is an exact retrain to release.

    Raises:
        SignoffError: none was made: the batch was only screened, or judged by a pool alone.
    """
    if not _settings(home, batch).references.without_blocks:
        raise SignoffError(
            f"batch {batch} has no exact retrain, since it was only screened or judged by a pool "
            "alone; reject it with --next another_method --method retrain"
        )


def _settings(home: Path, batch: str) -> settings.Settings:
    """The settings of a batch's audit."""
    from ruamel.yaml import YAML

    text = shell.git(home, "show", f"{close_batch.tag_of(batch)}:./params.yaml")
    return settings.parse(
        YAML(typ="safe").load(text), where=f"params.yaml of {close_batch.tag_of(batch)}"
    )


def _requested_settings(events: Sequence[Event]) -> dict[str, Any]:
    wished: dict[str, Any] = {}
    for event in events:
        if event.kind == "decision" and event.details["decision"] == "refuse":
            wished = dict(event.details.get("settings") or {})
        elif _is_audit(event):
            wished = {}
    return wished


def _is_audit(event: Event) -> bool:
    return event.kind == State.AUDITED
