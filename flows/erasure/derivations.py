"""Finds the objects that saw records, in a graph of the inputs and outputs of every stage in every
state.

A model counts as exposed to a record unless its training data are available and do not list the
record, or it was retrained without the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import networkx

from flows.erasure.git_history import DATA, WorkspaceState
from flows.erasure.matcher import DERIVED, ORIGINAL, REFERENCES

REDERIVED = ("verify", "propose", "report")
"""The stages that run from the scores alone."""
TRAINED, RETRAINED, MODEL = "train", "retrain", ".safetensors"
"""The stages whose models have and have not seen the forget set, and the suffix of a model."""
CLIMB, LADDER = "climb", "artifacts/ladder/"
"""The stage that unlearns further, and the folder of its models' scores."""
PACK = "artifacts/pack/"
"""Folder of the decoded records of a version of the data."""
_TABLES = (".json", ".csv", ".dir")
"""Suffixes of files without models; they are judged by their content."""
_RANK = (DERIVED, REFERENCES, ORIGINAL)
_RECORDS = "records"
"""The node from which exposure begins."""


class Knowledge(Protocol):
    """Answers about objects. None: the object is gone, so there is no answer."""

    def lists_trained(self, version: str) -> bool | None:
        """Whether a version of the data lists one of the records that a model was trained on."""

    def lists_any(self, version: str) -> bool | None:
        """Whether it lists any of the records to erase."""

    def forgets_all(self, oid: str) -> bool | None:
        """Whether a forget set contains all records to erase that models were trained on."""

    def read(self, oid: str) -> bytes | None:
        """The content of an object."""


@dataclass
class ObjectExposure:
    """The objects by their exposure to the records, as md5.

    Attributes:
        models: exposed models, with their kind.
        derivation: objects from which verdicts are derived.
        keep: objects that are kept: the released model, and models retrained without the records.
        other: packs known to hold none of the records, and objects recorded as something else.
    """

    models: dict[str, str] = field(default_factory=dict)
    derivation: set[str] = field(default_factory=set)
    keep: set[str] = field(default_factory=set)
    other: set[str] = field(default_factory=set)


def trace(states: Iterable[WorkspaceState], batch: str, knowledge: Knowledge) -> ObjectExposure:
    """Which objects saw records of the forget set.

    Args:
        states: all states of the workspace.
        batch: whose records are erased; its released and retrained models are kept.
        knowledge: answers about the data and lists of records.
    """
    return _Trace(list(states), batch, knowledge).run()


def originals(state: WorkspaceState) -> set[str]:
    """The md5 of the original model, which had to forget."""
    return {
        oid
        for path, oid in _entries(state.stages.get("unlearn", {}), "deps")
        if path.endswith(MODEL)
    }


class _Trace:
    """The graph: edges lead from an object to the stages that read it, and from a stage to its
    outputs. A stage also leads to a model that it read: a user's model was trained on its data."""

    def __init__(self, states: list[WorkspaceState], batch: str, knowledge: Knowledge) -> None:
        self._states, self._batch, self._knowledge = states, batch, knowledge
        self._graph = networkx.DiGraph()
        self._graph.add_node(_RECORDS)
        self._kinds: dict[str, str] = {}
        self._exposure = ObjectExposure(derivation=self._derivation())
        self._released_versions = {state.data for state in states if state.after and state.data}
        self._packs = _packs(states)

    def run(self) -> ObjectExposure:
        exposure = self._exposure
        exposure.other = {
            oid
            for oid, versions in self._packs.items()
            if all(self._knowledge.lists_any(version) is False for version in versions)
        }
        for number, state in enumerate(self._states):
            exposure.other |= self._no_packs(state)
            for name, stage in state.stages.items():
                self._add_stage(f"stage {number} {name}", name, stage)
            self._add_tracked(state)
        for oid in exposure.keep & set(self._graph):  # kept objects expose nothing
            self._graph.remove_edges_from(list(self._graph.out_edges(oid)))
        exposed = networkx.descendants(self._graph, _RECORDS)
        exposure.models = {oid: kind for oid, kind in self._kinds.items() if oid in exposed}
        for state in self._states:
            if f"audit/{self._batch}" in state.names:
                for oid in originals(state) & exposure.models.keys():
                    exposure.models[oid] = ORIGINAL
        return exposure

    def _add_stage(self, node: str, name: str, stage: Mapping[str, Any]) -> None:
        for path, oid in _entries(stage, "deps"):
            self._graph.add_edge(oid, node)
            if not self._is_clean_input(path, oid):
                self._graph.add_edge(_RECORDS, node)
            if path.endswith(MODEL):
                self._add_model(node, oid, DERIVED)
        kind = REFERENCES if _base(name) == TRAINED else DERIVED
        for path, oid in _entries(stage, "outs"):
            objects = dict(self._objects(oid, path))
            if self._was_without(name, stage):
                self._exposure.keep |= objects.keys()
                continue
            for part, part_path in objects.items():
                if part not in self._exposure.derivation and not part_path.endswith(_TABLES):
                    self._add_model(node, part, kind)

    def _add_tracked(self, state: WorkspaceState) -> None:
        """Add models that `.dvc` files track: those of this batch's release are kept, others are
        exposed if their data are."""
        for path, oid in state.pointers.items():
            if path == DATA:
                continue
            objects = dict(self._objects(oid, path))
            if state.after and path in (f"references/{self._batch}", f"releases/{self._batch}"):
                self._exposure.keep |= objects.keys()
            elif not self._is_clean(state.data):
                kind = REFERENCES if path.startswith("references/") else DERIVED
                for part, part_path in objects.items():
                    if part_path.endswith(MODEL):
                        self._add_model(_RECORDS, part, kind)

    def _add_model(self, node: str, oid: str, kind: str) -> None:
        self._graph.add_edge(node, oid)
        self._kinds[oid] = max(kind, self._kinds.get(oid, DERIVED), key=_RANK.index)

    def _was_without(self, name: str, stage: Mapping[str, Any]) -> bool:
        """Whether a stage trained without any of the records."""
        return _base(name) == RETRAINED and any(
            path.endswith("forget.csv") and bool(self._knowledge.forgets_all(oid))
            for path, oid in _entries(stage, "deps")
        )

    def _is_clean_input(self, path: str, oid: str) -> bool:
        if path.startswith(PACK):
            return oid in self._packs and all(map(self._is_clean, self._packs[oid]))
        return path != DATA or self._is_clean(oid)

    def _is_clean(self, version: str | None) -> bool:
        return (
            version is None
            or version in self._released_versions
            or self._knowledge.lists_trained(version) is False
        )

    def _no_packs(self, state: WorkspaceState) -> set[str]:
        """Objects that are no packs: outputs of other stages, and files that `.dvc` files track
        except the data, which are images."""
        outputs = {
            oid
            for stage in state.stages.values()
            for path, oid in _entries(stage, "outs")
            if not path.startswith(PACK)
        }
        tracked = [(path, oid) for path, oid in state.pointers.items() if path != DATA]
        return outputs | {part for path, oid in tracked for part, _ in self._objects(oid, path)}

    def _derivation(self) -> set[str]:
        """The objects from which verdicts and reports are derived again, with the scores of the
        ladder's models."""
        derived = set[str]()
        for state in self._states:
            for name, stage in state.stages.items():
                if name in REDERIVED:
                    for kind in ("deps", "outs") if name == "verify" else ("deps",):
                        derived |= {oid for _, oid in _entries(stage, kind)}
                if _base(name) == CLIMB:
                    for path, oid in _entries(stage, "outs"):
                        if path.startswith(LADDER):
                            derived |= dict(self._objects(oid, path)).keys()
        return derived

    def _objects(self, oid: str, path: str) -> Iterator[tuple[str, str]]:
        """The object itself, and its files if it is a folder whose list is available."""
        if not oid.endswith(".dir"):
            yield oid, path
            return
        yield oid, f"{path}.dir"
        content = self._knowledge.read(oid)
        for entry in json.loads(content) if content else []:
            yield str(entry["md5"]), f"{path}/{entry['relpath']}"


def _packs(states: Iterable[WorkspaceState]) -> dict[str, set[str]]:
    """The versions of the data that each file of a pack was made from, by its md5."""
    packs: dict[str, set[str]] = {}
    for state in states:
        stage = state.stages.get("pack", {})
        versions = {oid for path, oid in _entries(stage, "deps") if path == DATA}
        for _, oid in _entries(stage, "outs"):
            packs.setdefault(oid, set()).update(versions or {"unknown"})
    return packs


def _entries(stage: Mapping[str, Any], kind: str) -> list[tuple[str, str]]:
    """Paths and hashes of a stage in `dvc.lock`."""
    return [
        (str(entry["path"]), str(entry["md5"])) for entry in stage.get(kind, []) if entry.get("md5")
    ]


def _base(name: str) -> str:
    return name.partition("@")[0]
