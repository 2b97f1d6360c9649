"""The score of a record under a model, and the table of all scores that verification works from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.language import say

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Strings = NDArray[np.str_]
VIEW = "view_"
"""What the name of a view's array begins with in the file."""


def margins(logits: NDArray[np.float32] | Floats, labels: Ints) -> Floats:
    """The logit-scaled confidence phi = log p_y - log sum_{k != y} p_k, higher = more member-like.

    It equals z_y - logsumexp_{k != y} z_k, which neither over- nor underflows (Carlini et al. 2022,
    section IV.C).

    Args:
        logits: (n, classes), classes >= 2.
        labels: (n,) the true classes.

    Returns:
        (n,) float64.
    """
    from scipy.special import logsumexp

    scores = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    result: Floats = scores[rows, labels] - logsumexp(others, axis=1)
    return result


def _write(path: Path, views: dict[str, Floats], **arrays: Any) -> None:
    """Write arrays and views as .npz."""
    further: dict[str, Any] = {f"{VIEW}{name}": phi for name, phi in views.items()}
    with files.whole_file(path) as draft, draft.open("wb") as stream:
        np.savez(stream, **arrays, **further)


def _views(arrays: Any) -> dict[str, Floats]:
    """The views among the arrays of an .npz."""
    names = [name for name in arrays.files if name.startswith(VIEW)]
    return {name.removeprefix(VIEW): arrays[name] for name in names}


@dataclass(frozen=True)
class ModelScores:
    """The scores of one further model, in the order of the audit's other scores."""

    phi: Floats
    """(n,) margins"""
    predicted: Ints
    """(n,) predicted classes"""
    views: dict[str, Floats] = field(default_factory=dict)
    """by name (n,) the scores in a further view"""

    def save(self, path: Path) -> None:
        """Write as .npz, the same bytes for the same scores, whole or not at all."""
        _write(path, self.views, phi=self.phi, predicted=self.predicted.astype(np.int16))

    @classmethod
    def load(cls, path: Path) -> ModelScores:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            EvidenceError: the file is missing or lacks an array.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    arrays["phi"],
                    arrays["predicted"].astype(np.int64),
                    _views(arrays),
                )
        except (OSError, KeyError, ValueError) as error:
            raise EvidenceError(
                f"{path}: expected the scores that the stage climb writes ({error})"
            ) from error


@dataclass(frozen=True)
class Scores:
    """The scores of every record under every model, without images and identities; verification and
    report need nothing else."""

    model_roles: Strings
    """(m,) original, unlearned, retrained, with, without, pool, or fresh: retrained for this batch
    and judged with beside a pool"""
    phi: Floats
    """(m, n) margins"""
    predicted: Ints
    """(m, n) predicted classes"""
    labels: Ints
    """(n,) true classes"""
    roles: Strings
    """(n,) training, calibration, control or test"""
    requests: Strings
    """(n,) request that asks to forget the record, or empty"""
    subjects: Ints
    """(n,) a number for each data subject; no file says whose number it is"""
    attribute_names: Strings
    """(a,) further columns of the manifest with few values, by which utility is measured"""
    attributes: Strings
    """(n, a) their values; empty for records that are to be forgotten"""
    seen: NDArray[np.bool_] | None = None
    """(m, n) whether a model of a pool was trained on the record; None: there is no pool"""
    views: dict[str, Floats] = field(default_factory=dict)
    """by name (m, n) the scores in a further view, see `views`; NaN but for the records that are to
    be forgotten and those of control subjects"""

    @cached_property
    def retained(self) -> NDArray[np.bool_]:
        """(n,) the retain set: training records that nobody asked to forget."""
        return np.asarray((self.roles == "training") & (self.requests == ""))

    @cached_property
    def unseen(self) -> NDArray[np.bool_]:
        """(n,) records of people whom no model saw: control and test subjects."""
        return np.asarray((self.roles == "control") | (self.roles == "test"))

    @cached_property
    def controls(self) -> NDArray[np.bool_]:
        """(n,) records of control subjects."""
        return np.asarray(self.roles == "control")

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(m, n) whether the class predicted is the true one."""
        return np.asarray(self.predicted == self.labels)

    @cached_property
    def accuracy(self) -> dict[str, Floats]:
        """(m,) share of the retained records, and of those of unseen people, that each model
        answers rightly."""
        groups = {"retained": self.retained, "unseen": self.unseen}
        return {
            name: self.correct[:, rows].mean(axis=1) for name, rows in groups.items() if rows.any()
        }

    @cached_property
    def finite(self) -> bool:
        """Whether no score is NaN or infinite."""
        return bool(np.isfinite(self.phi).all())

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.intp]]:
        """Places of each request's records."""
        order = np.argsort(self.requests, kind="stable")
        names, first = np.unique(self.requests[order], return_index=True)
        return {
            str(name): rows for name, rows in zip(names, np.split(order, first[1:]), strict=True)
        }

    def rows_of(self, request: str) -> NDArray[np.bool_]:
        """(n,) the records that a request asks to forget."""
        rows = np.zeros(len(self.requests), bool)
        rows[self._rows.get(request, [])] = True
        return rows

    def forget_set(self, request: str) -> NDArray[np.bool_]:
        """(n,) the records that a request asks to forget, at least one.

        Raises:
            EvidenceError: the request has no record here.
        """
        rows = self.rows_of(request)
        if not request or not rows.any():
            raise EvidenceError(
                say(
                    "request {request} has no record in the scores; expected its forget set",
                    request=request or "(empty)",
                )
            )
        return rows

    def require_finite(self, rows: NDArray[np.bool_]) -> None:
        """Refuse scores (n,) of which some are NaN or infinite on the rows.

        Raises:
            EvidenceError: names the roles of the models.
        """
        if self.finite:
            return
        broken = ~np.isfinite(self.phi[:, rows]).all(axis=1)
        if broken.any():
            raise EvidenceError(
                say(
                    "scores of the models {models} are NaN or infinite; their training diverged, "
                    "train them anew",
                    models=", ".join(sorted(set(self.model_roles[broken].tolist()))),
                )
            )

    def of_model(self, role: str) -> ModelScores | None:
        """The scores of the one model of a role; None where there is none."""
        models = np.flatnonzero(self.model_roles == role)
        if len(models) != 1:
            return None
        model = int(models[0])
        views = {name: phi[model] for name, phi in self.views.items()}
        return ModelScores(self.phi[model], self.predicted[model], views)

    def with_unlearned(self, model: ModelScores) -> Scores:
        """The same scores with another model in the role of the unlearned one.

        Raises:
            EvidenceError: the model was scored on other records, or not in the same views.
        """
        self._require_alike(model)
        row = (self.model_roles == "unlearned")[:, None]
        return replace(
            self,
            phi=np.where(row, model.phi, self.phi),
            predicted=np.where(row, model.predicted, self.predicted),
            views={name: np.where(row, model.views[name], phi) for name, phi in self.views.items()},
        )

    def with_references(
        self, further: Sequence[tuple[str, ModelScores]], hybrid: bool = False
    ) -> Scores:
        """The same scores with further references after the models that are there.

        Args:
            further: role and scores of each.
            hybrid: whether models retrained for this batch judge beside a pool.

        Raises:
            EvidenceError: a reference was scored on other records, or not in the same views.
        """
        for _, model in further:
            self._require_alike(model)
        models = [model for _, model in further]
        judged = {"without": "fresh"} if hybrid else {}
        roles = [*self.model_roles.tolist(), *(role for role, _ in further)]
        more = np.zeros((len(models), len(self.labels)), bool)
        return replace(
            self,
            model_roles=np.array([judged.get(role, role) for role in roles]),
            phi=np.array([*self.phi, *(model.phi for model in models)]),
            predicted=np.array([*self.predicted, *(model.predicted for model in models)]),
            seen=None if self.seen is None else np.concatenate([self.seen, more]),
            views={
                name: np.array([*phi, *(model.views[name] for model in models)])
                for name, phi in self.views.items()
            },
        )

    def _require_alike(self, model: ModelScores) -> None:
        shape = (len(self.labels),)
        scored = {**model.views, "answers": model.phi}
        if set(model.views) != set(self.views) or any(
            phi.shape != shape for phi in scored.values()
        ):
            raise EvidenceError(
                f"got a model's scores of {len(model.phi)} records in the views "
                f"{sorted(model.views)}, expected {len(self.labels)} in {sorted(self.views)}; "
                "run the stage climb again"
            )

    def save(self, path: Path) -> None:
        """Write as .npz, the same bytes for the same scores, whole or not at all."""
        seen: dict[str, Any] = {} if self.seen is None else {"seen": np.packbits(self.seen, axis=1)}
        _write(
            path,
            self.views,
            model_roles=self.model_roles,
            phi=self.phi,
            predicted=self.predicted.astype(np.int16),
            labels=self.labels.astype(np.int16),
            roles=self.roles,
            requests=self.requests,
            subjects=self.subjects.astype(np.int32),
            attribute_names=self.attribute_names,
            attributes=self.attributes,
            **seen,
        )

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            EvidenceError: the file is missing or lacks an array.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                scores = cls(
                    arrays["model_roles"],
                    arrays["phi"],
                    arrays["predicted"].astype(np.int64),
                    arrays["labels"].astype(np.int64),
                    arrays["roles"],
                    arrays["requests"],
                    arrays["subjects"].astype(np.int64),
                    arrays["attribute_names"],
                    arrays["attributes"],
                    np.unpackbits(arrays["seen"], axis=1, count=len(arrays["labels"])).astype(bool)
                    if "seen" in arrays
                    else None,
                    _views(arrays),
                )
        except (OSError, KeyError, ValueError) as error:
            raise EvidenceError(
                f"{path}: expected the scores that the stage score writes ({error})"
            ) from error
        scores.check()
        return scores

    def check(self) -> None:
        """Refuse scores that are unfit for a verdict.

        Raises:
            EvidenceError: shapes differ, or there is not exactly one model of each of the roles
                original, unlearned and, where models were trained without the forget set,
                retrained.
        """
        m, n = len(self.model_roles), len(self.labels)
        if self.phi.shape != (m, n) or self.predicted.shape != (m, n):
            raise EvidenceError(
                f"got scores of shape {self.phi.shape}, expected {m} models x {n} records"
            )
        for name, phi in self.views.items():
            if phi.shape != (m, n):
                raise EvidenceError(
                    f"got scores of shape {phi.shape} in the view {name}, expected {(m, n)}"
                )
        if (self.seen is None) == bool((self.model_roles == "pool").any()):
            raise EvidenceError("got models of a pool without who was in them, or the reverse")
        if self.seen is not None and self.seen.shape != (m, n):
            raise EvidenceError(
                f"got who was in the pool's models as {self.seen.shape}, expected {(m, n)}"
            )
        anew = bool(
            np.isin(self.model_roles, ("retrained", "without", "fresh")).any()
        )  # a screening has no such models
        for role in ("original", "unlearned", *(("retrained",) if anew else ())):
            if int((self.model_roles == role).sum()) != 1:
                raise EvidenceError(
                    f"got {int((self.model_roles == role).sum())} models in the role {role}, "
                    "expected 1"
                )
