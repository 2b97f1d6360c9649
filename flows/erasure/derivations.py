"""Which objects saw which records: a graph of what every stage, in every state, made from what.

A model is taken to have seen a record unless it is known that it has not: because the data it was
made from are at hand and do not list the record, or because it was retrained without it.
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
"""The stages whose models have and have not seen the forget set, and how a model's file ends."""
CLIMB, LADDER = "climb", "artifacts/ladder/"
"""The stage that unlearns further, and where it leaves what its models say of the records."""
PACK = "artifacts/pack/"
"""Where the stage `pack` keeps all records of a version of the data, decoded."""
_TABLES = (".json", ".csv", ".dir")
"""Files that hold no model and nothing learned; they are judged by what they say."""
_RANK = (DERIVED, REFERENCES, ORIGINAL)
_RECORDS = "records"
"""The node from which exposure begins."""


class Knowledge(Protocol):
    """What is known of objects. None: it is gone, so that it cannot be told."""

    def lists_trained(self, version: str) -> bool | None:
        """Whether a version of the data lists one of the records that a model was trained on."""

    def lists_any(self, version: str) -> bool | None:
        """Whether it lists any of the records that go."""

    def forgets_all(self, oid: str) -> bool | None:
        """Whether a list of records to forget has all of those that models were trained on."""

    def read(self, oid: str) -> bytes | None:
        """The content of an object."""


@dataclass
class ObjectExposure:
    """What saw the records.

    Attributes:
        models: by md5, what saw them, with its kind.
        derivation: md5 of what verdicts are derived from.
        keep: md5 of what is kept: the released model, and what was retrained without them.
        other: md5 of packs known to hold none of them, and of what is on record as no pack.
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
        knowledge: what the data and lists of records say.
    """
    return _Trace(list(states), batch, knowledge).run()


def originals(state: WorkspaceState) -> set[str]:
    """The md5 of the model that had to forget."""
    return {
        oid
        for path, oid in _entries(state.stages.get("unlearn", {}), "deps")
        if path.endswith(MODEL)
    }


class _Trace:
    """The graph: an object leads to the stages that read it, a stage to what it made. A stage also
    leads to a model that it read, for one of the user's own was trained on the stage's data."""

    def __init__(self, states: list[WorkspaceState], batch: str, knowledge: Knowledge) -> None:
        self._states, self._batch, self._knowledge = states, batch, knowledge
        self._graph = networkx.DiGraph()
        self._graph.add_node(_RECORDS)
        self._kinds: dict[str, str] = {}
        self._exposure = ObjectExposure(derivation=self._derivation())
        self._after = {state.data for state in states if state.after and state.data}
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
        for oid in exposure.keep & set(self._graph):  # what is clean exposes nothing
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
                self._lead(node, oid, DERIVED)
        kind = REFERENCES if _base(name) == TRAINED else DERIVED
        for path, oid in _entries(stage, "outs"):
            objects = dict(self._objects(oid, path))
            if self._was_without(name, stage):
                self._exposure.keep |= objects.keys()
                continue
            for part, part_path in objects.items():
                if part not in self._exposure.derivation and not part_path.endswith(_TABLES):
                    self._lead(node, part, kind)

    def _add_tracked(self, state: WorkspaceState) -> None:
        """Models that `.dvc` files track: kept, if of this batch's release, else as their data."""
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
                        self._lead(_RECORDS, part, kind)

    def _lead(self, node: str, oid: str, kind: str) -> None:
        self._graph.add_edge(node, oid)
        self._kinds[oid] = max(kind, self._kinds.get(oid, DERIVED), key=_RANK.index)

    def _was_without(self, name: str, stage: Mapping[str, Any]) -> bool:
        """Whether a stage trained without all of the records."""
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
            or version in self._after
            or self._knowledge.lists_trained(version) is False
        )

    def _no_packs(self, state: WorkspaceState) -> set[str]:
        """The files that other stages made, and those that `.dvc` files track; the data are
        images."""
        made = {
            oid
            for stage in state.stages.values()
            for path, oid in _entries(stage, "outs")
            if not path.startswith(PACK)
        }
        tracked = [(path, oid) for path, oid in state.pointers.items() if path != DATA]
        return made | {part for path, oid in tracked for part, _ in self._objects(oid, path)}

    def _derivation(self) -> set[str]:
        """What verdicts and reports are derived again from, among it the scores of the models of
        the ladder."""
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
        """The object itself, and the files in it if it is a folder whose list is there."""
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
    """Paths and hashes that a stage of `dvc.lock` has on record."""
    return [
        (str(entry["path"]), str(entry["md5"])) for entry in stage.get(kind, []) if entry.get("md5")
    ]


def _base(name: str) -> str:
    return name.partition("@")[0]
