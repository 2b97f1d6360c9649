"""Erasing the copies of a released batch's records: everywhere, looked at again afterwards, with a
receipt per store.

What has to go is written down first, in a private file that is itself erased last, for it could not
be found out again once the data are gone. Each store is erased, looked at again, and only then
receipted. Whatever was done before is found done, so an erasure that was cut off continues, and a
second one changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.erasure import git_history, stores
from flows.erasure.matcher import ORIGINAL, REFERENCES, Judge, Sought
from flows.intake import batch_requests
from flows.operations import signoff
from flows.pipeline import stage_runner
from flows.reports import signing
from flows.workspace import checkouts, dvc_graph, dvc_locks, layout, shell, signing_keys
from tasks.common import files, settings
from tasks.common.errors import AuditError
from tasks.data import records
from tasks.requests import decisions, pseudonyms

if TYPE_CHECKING:
    import pandas as pd

    from flows.register.register import Register

PRIVATE = ".erasure"
"""Folder of what an erasure under way has to know; nobody else may read it, and it goes last."""
RECEIPTS = Path("ledger/erasures")
"""Where git keeps the receipts, one file per batch; `flows.pipeline.reproduce` quotes them."""
SCHEMA_VERSION = 1
HANDOVER = "handover"
"""Folder of a remote in which stages are handed to agents."""

Listener = Callable[[str], None]


class ErasureError(AuditError):
    """A batch's records cannot be erased, or not everywhere yet."""


@dataclass(frozen=True)
class Erased:
    """What an erasure came to.

    Attributes:
        batch: its name.
        receipts: one per store, in the order of the erasing.
        held: stores in which something remains, with the reason.
        tag: that names the state afterwards.
        new: false where it was all done before.
    """

    batch: str
    receipts: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    tag: str | None = None
    new: bool = True

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def tag_of(batch: str) -> str:
    """The tag of a batch whose copies are erased."""
    return f"erased/{batch}"


def erase(
    home: Path,
    batch: str,
    by: str | None = None,
    register: Register | None = None,
    listener: Listener = lambda _: None,
    temporary: list[Path] | None = None,
) -> Erased:
    """Erase the copies of a released batch's records, and of models that saw them.

    Erased are the records of all requests that the batch carried out, and of those set aside only
    because no model was trained on their records. A request that was refused, is on hold, or for
    which an exception is claimed keeps its data, and so does a file that a remaining record has
    byte by byte.

    Args:
        home: the workspace.
        batch: its name.
        by: who answers for it; None: the name that git has.
        register: of the requests; without it, nothing is moved there.
        listener: told of each step, before it is taken.
        temporary: folders in which temporary folders lie; None: the machine's.

    Raises:
        ErasureError: the batch is not released; or a store cannot be erased now, while all others
            are.
        BusyError: a batch is being worked on.
        AuditError: the workspace, its data or DVC are not as they have to be.
    """
    with _alone(home, register) as check:
        return _Erasure(
            home, batch, by or stores.operator(home), register, listener, temporary, check
        ).run()


def receipts(home: Path) -> list[dict[str, Any]]:
    """All receipts of the workspace, by batch."""
    return [files.read_json(path) for path in sorted((home / RECEIPTS).glob("*.json"))]


@contextlib.contextmanager
def _alone(home: Path, register: Register | None) -> Iterator[Callable[[], None]]:
    """Nobody else decides, releases or erases, and no DVC is at work in any checkout; yields a
    check of the former."""
    with register.lease(signoff.LEASE) if register else contextlib.nullcontext() as lease:
        for tree in (home, *stores.trees(home)):
            dvc_locks.sweep(tree)
            table = tree / ".dvc" / "tmp" / "rwlock"
            held = json.loads(table.read_text(encoding="utf-8") or "{}") if table.exists() else {}
            if held.get("read") or held.get("write"):
                raise ErasureError(
                    "DVC is at work in a checkout of this workspace; wait until it ended, then "
                    "try again"
                )
        yield lease.check if lease is not None else lambda: None


class _Erasure:
    def __init__(
        self,
        home: Path,
        batch: str,
        by: str,
        register: Register | None,
        listener: Listener,
        temporary: list[Path] | None,
        check: Callable[[], None],
    ) -> None:
        self.check = check
        self.home, self.batch, self.by, self.register, self.say = (
            home,
            batch,
            by,
            register,
            listener,
        )
        self.temporary = temporary
        self.private = home / PRIVATE / f"{batch}.json"
        self.receipts = home / RECEIPTS / f"{batch}.json"

    def run(self) -> Erased:
        if self.register is not None:
            batch_requests.check(self.home, self.register, self.batch)
        if not self.private.exists() and _has_tag(self.home, tag_of(self.batch)):
            self._move()
            return self._summary(new=False)
        self._refuse_held()
        if not self.private.exists():
            self._may_begin()
            self.say("plan")
            self._write(self._plan())
        plan = files.read_json(self.private)
        if not _has_tag(self.home, tag_of(self.batch)):
            self._carry_out(plan)
        self.say("register")
        self._move()
        self.say("forget the plan")
        shutil.rmtree(self.private.parent) if _only(self.private) else self.private.unlink()
        return self._summary(new=True)

    # -- beforehand -------------------------------------------------------------------------------

    def _refuse_held(self) -> None:
        """A hold that comes when a part is erased keeps the rest."""
        if self.register and (
            held := [case.request_id for case in self.register.cases(batch=self.batch) if case.held]
        ):
            raise ErasureError(
                f"batch {self.batch}: a legal hold lies on request {', '.join(held)}; nothing is "
                "erased before it is "
                "lifted"
            )

    def _may_begin(self) -> None:
        if not _has_tag(self.home, f"audit/{self.batch}"):
            raise ErasureError(
                f"no tag audit/{self.batch}: the batch is not audited, so there is nothing to "
                "erase yet"
            )
        if not _has_tag(self.home, f"release/{self.batch}"):
            raise ErasureError(
                f"batch {self.batch} is not released: the model in use still is one that saw the "
                "records. "
                f"See `erasure-audit approve` and `erasure-audit release {self.batch}`"
            )
        batches = (self.home / checkouts.FOLDER).resolve()
        for tree in (tree.resolve() for tree in stores.trees(self.home)):
            name = tree.relative_to(batches).parts[0] if tree.is_relative_to(batches) else None
            if name is not None and not _has_tag(self.home, f"audit/{name}"):
                raise ErasureError(
                    f"batch {name} is under way and reads the data; erase {self.batch} when it is "
                    "audited"
                )

    def _plan(self) -> dict[str, Any]:
        """Everything that has to be known once the data are gone."""
        others = stores.trees(self.home)
        cache, remotes = stores.of_dvc(self.home)
        shelf = _Shelf(cache, remotes)
        release = f"release/{self.batch}"
        known = git_history.states(self.home, release, others)
        audited = next(state for state in known if f"audit/{self.batch}" in state.names)
        on_record = audited.on_record()
        version = on_record.get(git_history.DATA)
        if version is None:
            raise ErasureError(
                f"audit/{self.batch} tracks no data/, so nothing can be erased by it"
            )
        with self._private_folder() as place:
            table, forget_set, requests = self._records(place, shelf, on_record, version)
        named = _Named.of(table, shelf, git_history.versions(known) | {version})
        here = git_history.at_hand(self.home).data
        needed, shared = _needed(here, named, shelf)
        trained = _Named.of(table[table["trained"]], shelf, git_history.versions(known) | {version})
        saw = git_history.saw(
            known,
            self.batch,
            lambda one: shelf.lists(one, trained),
            lambda one: shelf.lists(one, named),
            lambda one: shelf.forgets(one, forget_set),
            shelf.read,
        )
        models = saw.models if forget_set else {}
        keep = saw.keep | needed
        sought = Sought(
            records=frozenset(named.records - needed),
            contents=frozenset(named.contents)
            if not shared
            else frozenset(named.contents - shared),
            shared=len(named.records & needed),
            record_ids=frozenset(named.record_ids),
            subject_ids=frozenset(named.subject_ids),
            paths=frozenset(named.paths),
            identities=frozenset(named.identities),
            models={oid: kind for oid, kind in models.items() if oid not in keep | saw.derivation},
            keep=frozenset(keep),
            derivation=frozenset(saw.derivation),
            other=frozenset(saw.other),
        )
        chosen = _settings_at(self.home, f"audit/{self.batch}")
        return {
            "batch": self.batch,
            "by": self.by,
            "begun": _now(),
            "requests": requests,
            "sought": sought.plain(),
            "stays": sorted({kind for oid, kind in models.items() if oid in keep}),
            "gone": [],
            "found": {},
            "backups": [backup.model_dump() for backup in chosen.report.backups],
            "remotes": list(
                files.read_json(self.home / "ledger/batches" / f"{self.batch}.json").get(
                    "remotes", []
                )
            ),
        }

    def _records(
        self, place: Path, shelf: _Shelf, on_record: Mapping[str, str], version: str
    ) -> tuple[pd.DataFrame, set[str], dict[str, str]]:
        """The records that go: their rows, the ids of those that were trained on, and what becomes
        of each request."""
        import numpy as np

        from tasks.requests.directory import Directory
        from tasks.requests.opendsr import read_batch
        from tasks.resolve import decide

        manifest = shelf.data(version, place)
        known = place / "identities.csv"
        columns = ("identity_type", "identity_value", "subject_id")
        people = files.read_csv(known, columns) if known.is_file() else None
        directory = Directory(
            manifest["subject_id"].unique().tolist(),
            people,
            manifest["record_id"].tolist(),
            lambda: pseudonyms.at_hand(self.home),
        )
        requests = place / f"{self.batch}.json"
        requests.write_text(
            shell.git(self.home, "show", f"audit/{self.batch}:./requests/{self.batch}.json")
        )
        asked = np.full(len(manifest), "")
        if "artifacts/resolve/forget.csv" in on_record:
            forget = place / "forget.csv"
            forget.write_bytes(shelf.must(on_record["artifacts/resolve/forget.csv"], "forget.csv"))
            asked = records.read_forget(forget, manifest)
            resolved = shelf.must(on_record.get("artifacts/resolve/register.json"), "register.json")
            entries = json.loads(resolved)["batch_requests"]
        else:  # no model saw anybody of the batch, and its audit ended here
            roles = place / "split.csv"
            roles.write_bytes(shelf.must(on_record.get("artifacts/split.csv"), "split.csv"))
            entries = decide(
                read_batch(requests), manifest, records.read_roles(roles, manifest), directory
            ).register
        decided = decisions.parse(
            _decided(self.home, self.batch),
            [str(entry["request_id"]) for entry in entries],
            "ledger/decisions",
        )
        fates = {str(entry["request_id"]): self._fate(entry, decided) for entry in entries}
        codes = {str(entry["request_id"]): entry["code"] for entry in entries}
        aside = [
            entry
            for entry in read_batch(requests)
            if codes[entry.request_id] == signoff.NOT_IN_TRAINING
            and fates[entry.request_id] == "erased"
        ]
        # taken as if each had been trained on, they are found just as those are that were
        unseen = decide(
            aside,
            manifest.assign(label=0),
            np.full(len(manifest), "training"),
            directory,
        ).forget
        chosen = np.where(asked != "", asked, unseen)
        goes = np.array([fates.get(str(request)) == "erased" for request in chosen], bool)
        if not goes.any():
            raise ErasureError(
                f"batch {self.batch}: no request is left whose records may be erased: "
                f"{_told(fates)}"
            )
        table = manifest.assign(request=chosen, trained=asked != "")
        table["last"] = ~table["subject_id"].isin(set(table["subject_id"][~goes]))
        table = table[goes]
        leaving = set(table["subject_id"][table["last"]])
        if people is not None:
            table.attrs["identities"] = sorted(
                people["identity_value"][people["subject_id"].isin(leaving)]
            )
        return table, set(table["record_id"][table["trained"]]), fates

    def _fate(self, entry: Mapping[str, Any], decided: decisions.Decisions) -> str:
        """`erased`, or why the request's data stay."""
        request, code = str(entry["request_id"]), entry["code"]
        if entry["status"] != "accepted" and code != signoff.NOT_IN_TRAINING:
            return f"set aside ({code})"
        own = decided.of(request)
        if own.exceptions:
            return "an exception is claimed"
        if "refuse" in {approval.by: approval.decision for approval in own.approvals}.values():
            return "refused"
        return self._fate_in_register(request)

    def _fate_in_register(self, request: str) -> str:
        if self.register is None:
            return "erased"
        from flows.register.register import State, UnknownRequestError

        try:
            case = self.register.case(request)
        except UnknownRequestError:  # a batch that was written by hand
            return "erased"
        if case.batch not in (None, self.batch):
            return "asked for again in another batch"
        past = case.state in (State.RELEASED, State.ERASED, State.CLOSED)
        return "erased" if past else f"not released ({case.shown})"

    # -- carrying it out --------------------------------------------------------------------------

    def _carry_out(self, plan: dict[str, Any]) -> None:
        sought = Sought.of(plan["sought"])
        judge = Judge(sought, plan["gone"])
        self.say("data")
        moved = _leave_the_data(self.home, sought)
        cache, remotes = stores.of_dvc(self.home, (HANDOVER,))
        self.say("worktree")
        checkouts.close(self.home, self.batch)  # all of it is in git and in DVC's stores
        others = stores.trees(self.home)
        fresh = _hash_data(self.home)
        if fresh:
            judge = Judge(_also_kept(sought, cache, fresh), plan["gone"])
        places: list[stores.Store] = [
            stores.Tree("workspace", self.home),
            *(stores.Tree(f"worktree:{number}", tree) for number, tree in enumerate(others, 1)),
            stores.Temporary(self.home, self.temporary),
            cache,
            *remotes,
            stores.Databases([self.home, *others]),
            stores.Witnesses("prefect", [stores.prefect_home(self.home)]),
            stores.Witnesses("register", [self.home / ".register"]),
            *([stores.Rows(self.home)] if self.register else []),
            stores.Witnesses("inbox", [self.home / "inbox"]),
            stores.History(self.home),
        ]
        failed = self._push(remotes, fresh) if moved else {}
        failed |= {
            f"dvc_remote:{name}": f"dvc_remote:{name} is no longer set up, so that it cannot be looked at"
            for name in plan["remotes"]
            if f"dvc_remote:{name}" not in {place.name for place in places}
        }
        done: list[dict[str, Any]] = []
        for place in places:
            if place.name not in failed:
                try:
                    done.append(self._one(place, judge, plan))
                except stores.StoreError as error:
                    failed[place.name] = str(error)
        _drop_pointers(self.home, judge)
        done += self._models(plan, judge, failed) + self._backups(plan)
        self._file(plan, judge, done)
        failed |= {
            one["store"]: one["reason"]
            for one in done
            if one["state"] == "held" and _holds_records(one["part"])
        }
        by_hand = {one["store"] for one in self._others_entries()}
        left = {name: why for name, why in failed.items() if name not in by_hand}
        if left:
            raise ErasureError(
                f"batch {self.batch}: {len(left)} of {len(places)} places are not erased, the "
                "others are: "
                f"{'; '.join(left.values())}. Run `erasure-audit erase {self.batch}` again when "
                "that is mended, or "
                f"enter a receipt of your own in ledger/decisions/{self.batch}.json "
                "(docs/erasure.md)"
            )
        self.say("report")
        self._report(plan, done)

    def _one(self, place: stores.Store, judge: Judge, plan: dict[str, Any]) -> dict[str, Any]:
        """Look, erase, look again; the receipt."""
        self.say(f"look at {place.name}")
        seen = place.look(judge)
        before = self._filed().get(place.name)
        if (
            before is not None
            and before["state"] == "erased"
            and not seen.found
            and not seen.foreign
        ):
            return before  # it was erased by an earlier run, and is still
        noted = plan["found"].setdefault(place.name, {})
        noted |= {one.key: one.kind for one in seen.found}
        plan["gone"] = sorted(judge.gone)
        self._write(plan)
        if seen.found:
            self.say(f"erase {place.name}")
            self.check()
            place.erase(seen.found)
            self.say(f"look at {place.name} again")
            seen = place.look(judge)
            if seen.found:
                raise stores.StoreError(
                    f"{place.name}: {len(seen.found)} things are there still after erasing them"
                )
        reason = place.held
        if reason is None and seen.foreign and place.name != "git":
            reason = f"{place.name}: {seen.foreign} files that are not the tool's hold or name a record; see to them"
            reason += f" ({', '.join(seen.examples)})" if seen.examples else ""
        return self._receipt(plan, place.name, place.part, judge, seen, noted, reason)

    def _receipt(
        self,
        plan: Mapping[str, Any],
        name: str,
        part: str | None,
        judge: Judge,
        seen: stores.Look,
        noted: Mapping[str, str],
        reason: str | None,
    ) -> dict[str, Any]:
        return _sealed(
            {
                "store": name,
                "part": part,
                "state": "held" if reason else "erased",
                **({"reason": reason} if reason else {}),
                "at": _now(),
                "by": plan["by"],
                "looked_for": judge.sought.counts(),
                "looked_at": seen.looked_at,
                "found": dict(sorted(Counter(noted.values()).items())),
                "erased": len(noted),
                "left": len(seen.found),
                "shared_with_remaining_records": judge.sought.shared,
                "kept_to_derive_verdicts": judge.named,
            }
        )

    def _models(
        self, plan: Mapping[str, Any], judge: Judge, failed: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Receipts for the original and the reference models: they lay in the stores before."""
        made = []
        for part, kind in (("original_model", ORIGINAL), ("reference_models", REFERENCES)):
            where = [name for name, noted in plan["found"].items() if kind in noted.values()]
            count = sum(list(plan["found"][name].values()).count(kind) for name in where)
            reason = None
            if kind in plan["stays"]:
                reason = "it is the model that was released, or was retrained without the records"
            elif failed:
                reason = f"it may lie in {', '.join(sorted(failed))}"
            elif kind not in judge.sought.models.values():
                reason = "the tool does not keep it, so it has to be erased where it is used"
            made.append(
                _sealed(
                    {
                        "store": part,
                        "part": part,
                        "state": "held" if reason else "erased",
                        **({"reason": reason} if reason else {}),
                        "at": _now(),
                        "by": plan["by"],
                        "looked_for": judge.sought.counts(),
                        "found": {kind: count},
                        "in_stores": sorted(where),
                        "erased": count,
                    }
                )
            )
        return made

    def _backups(self, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
        today = datetime.now(UTC).date()
        return [
            _sealed(
                {
                    "store": f"backup:{backup['name']}",
                    "part": f"backup:{backup['name']}",
                    "state": "expires",
                    "expires_on": (today + timedelta(days=backup["days"])).isoformat(),
                    "at": _now(),
                    "by": plan["by"],
                }
            )
            for backup in plan["backups"]
        ]

    def _push(
        self, remotes: list[stores.Objects | stores.Remote], fresh: str | None
    ) -> dict[str, str]:
        """What remains has to be in every remote before the old list of it goes."""
        held: dict[str, str] = {}
        for remote in remotes:
            try:
                if isinstance(remote, stores.Objects) and fresh:
                    # pushed to, a folder that is not mounted would look as if it were
                    remote.refuse_empty()
                    if not remote.has(fresh):
                        name = remote.name.partition(":")[2]
                        shell.dvc(self.home, "push", "--remote", name, "data.dvc")
            except AuditError as error:
                held[remote.name] = str(error)
        return held

    def _file(self, plan: Mapping[str, Any], judge: Judge, done: list[dict[str, Any]]) -> None:
        """Write the receipts; they hold numbers and no names."""
        now = {one["store"]: one for one in done}
        files.write_json(
            self.receipts,
            {
                "schema_version": SCHEMA_VERSION,
                "batch": self.batch,
                "begun": plan["begun"],
                "requests": plan["requests"],
                "stores": list({**self._filed(), **now}.values()),
                "not_kept": _not_kept(self.home, judge.gone),
            },
        )

    def _filed(self) -> dict[str, dict[str, Any]]:
        """The receipts of an earlier run, by store."""
        found = files.read_json(self.receipts)["stores"] if self.receipts.exists() else []
        return {one["store"]: one for one in found}

    def _in_report(self) -> set[str]:
        """The stores that the batch's reports list in part 7, and git, which they list where it is
        named."""
        found = (self.home / "reports" / self.batch).glob("*/evidence.json")
        listed = {
            copy["store"]
            for path in found
            for copy in files.read_json(path).get("copies", [])
            if "kind" in copy
        }
        return listed | {"git"} if listed else set()

    def _others_entries(self) -> list[dict[str, Any]]:
        """Erasures that people entered by hand."""
        entered: list[dict[str, Any]] = _decided(self.home, self.batch).get("erasure", [])
        return [
            one
            for one in entered
            if not str(one.get("receipt", "")).startswith(RECEIPTS.as_posix())
        ]

    def _report(self, plan: Mapping[str, Any], done: list[dict[str, Any]]) -> None:
        """Make the report again with the receipts, sign it, commit and tag it."""
        decided = self.home / decisions.FOLDER / f"{self.batch}.json"
        files.write_json(decided, self._with_receipts(plan, done))
        name = f"reports/{self.batch}"
        if not shell.succeeds(
            self.home, "rev-parse", "--verify", "--quiet", f"audit/{self.batch}:./{name}"
        ):
            self._close([decided])  # a batch of which no model saw anybody has no reports
            return
        lock, as_released = (
            self.home / "dvc.lock",
            ("diff", "--quiet", f"release/{self.batch}", "--", "dvc.lock"),
        )
        with checkouts.at(self.home, f"audit/{self.batch}") as copy:
            for path in (
                decided,
                *sorted((self.home / "ledger/batches").glob(f"{self.batch}.json")),
            ):
                target = copy / path.relative_to(self.home)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            stage_runner.Runner(copy, 1, stage_runner.nobody).run("report", force=True)
            key = signing_keys.at_hand(self.home)
            if key is not None:
                signing.sign(copy, self.batch, key)
            for folder in (name, f"signed/{self.batch}"):
                if (copy / folder).is_dir():
                    with files.whole_folder(self.home / folder) as draft:
                        shutil.copytree(copy / folder, draft, dirs_exist_ok=True)
            if shell.succeeds(self.home, *as_released):  # else it is of a later batch by now
                files.write_bytes(lock, (copy / "dvc.lock").read_bytes())
        self._close([decided, self.home / name, self.home / "signed" / self.batch, lock])

    def _close(self, changed: list[Path]) -> None:
        """Commit and tag."""
        self.say("commit")
        removed = shell.git(self.home, "ls-files", "--deleted", "--", "*.dvc").splitlines()
        paths = [
            path.relative_to(self.home).as_posix()
            for path in (*changed, self.receipts, self.home / "data.dvc")
        ]
        paths += removed
        there = [path for path in paths if (self.home / path).exists() or path in removed]
        shell.git(self.home, "add", "--all", "--", *there)
        if not shell.succeeds(self.home, "diff", "--cached", "--quiet", "--", *there):
            message = f"Copies of batch {self.batch} erased"
            shell.git(self.home, "commit", "--quiet", "-m", message, "--", *there)
        self.say("tag")
        shell.git(
            self.home,
            "tag",
            "--annotate",
            "-m",
            f"Copies of batch {self.batch} erased",
            tag_of(self.batch),
        )

    def _with_receipts(self, plan: Mapping[str, Any], done: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch's decisions with an entry per store of part 7; entries of another run of this
        give way."""
        decided = _decided(self.home, self.batch)
        fates = plan["requests"]
        going = [request for request, fate in fates.items() if fate == "erased"]
        others = [
            request
            for request, fate in fates.items()
            if fate != "erased" and not fate.startswith("set aside")
        ]
        known = self._in_report()
        entries = []
        for part, receipt in _by_part(done).items():
            if receipt["state"] == "held" and part != "git":
                continue
            if known and part not in known:
                # a remote that was set up after the audit, say: receipts tell of it, the report
                # cannot
                continue
            entry = {
                "store": part,
                "state": receipt["state"],
                "at": receipt["at"],
                "by": receipt["by"],
                "receipt": f"{RECEIPTS.as_posix()}/{self.batch}.json, {receipt['store']}: SHA-256 {receipt['sha256']}",
                **({"expires_on": receipt["expires_on"]} if receipt["state"] == "expires" else {}),
            }
            entries += (
                [{**entry, "request": request} for request in going]
                if others
                else [{**entry, "request": None}]
            )
        return {**decisions.EMPTY, **decided, "erasure": [*entries, *self._others_entries()]}

    # -- small things -----------------------------------------------------------------------------

    def _move(self) -> None:
        """The register follows; requests that are there already, or are not in it, are left
        alone."""
        if self.register is None:
            return
        from flows.register.register import State

        own = files.read_json(self.receipts)["requests"]
        cases = {case.request_id: case for case in self.register.cases(batch=self.batch)}
        ready = [one for one, fate in own.items() if fate == "erased" and one in cases]
        ready = [one for one in ready if cases[one].state is State.RELEASED]
        if ready:
            self.register.move(ready, State.ERASED, self.by, receipt=files.sha256(self.receipts))

    def _summary(self, new: bool) -> Erased:
        filed = files.read_json(self.receipts)["stores"]
        held = {one["store"]: one["reason"] for one in filed if one["state"] == "held"}
        return Erased(self.batch, filed, held, tag_of(self.batch), new)

    def _write(self, plan: Mapping[str, Any]) -> None:
        self.private.parent.mkdir(exist_ok=True)
        self.private.parent.chmod(0o700)
        files.write_text(self.private.parent / ".gitignore", "*\n")
        files.write_json(self.private, plan)
        self.private.chmod(0o600)

    @contextlib.contextmanager
    def _private_folder(self) -> Iterator[Path]:
        folder = self.home / PRIVATE
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        files.write_text(folder / ".gitignore", "*\n")
        for left in folder.glob("plan-*"):
            shutil.rmtree(left)
        place = Path(tempfile.mkdtemp(prefix="plan-", dir=folder))
        try:
            yield place
        finally:
            shutil.rmtree(place)


class _Shelf:
    """All of DVC's stores as one, to read objects from."""

    def __init__(
        self, cache: stores.Objects, remotes: list[stores.Objects | stores.Remote]
    ) -> None:
        self._cache, self._remotes = cache, remotes
        self._read: dict[str, bytes | None] = {}
        self._ids: dict[str, set[str] | None] = {}

    def read(self, oid: str) -> bytes | None:
        """The content of an object; None where no store has it.

        Raises:
            StoreError: it is not in the cache, and a remote that may have it cannot be reached.
        """
        if oid not in self._read:
            self._read[oid] = self._cache.read(oid)
            for remote in self._remotes:
                if self._read[oid] is None and isinstance(remote, stores.Objects):
                    self._read[oid] = remote.read(oid)
        return self._read[oid]

    def must(self, oid: str | None, name: str) -> bytes:
        """As `read`, for what the plan cannot do without."""
        content = self.read(oid) if oid else None
        if content is None:
            raise ErasureError(
                f"{name} of the batch is neither in DVC's cache nor in a remote, so it cannot be "
                "told "
                "whose records have to go; restore the store that holds it"
            )
        return content

    def entries(self, version: str) -> dict[str, str] | None:
        """The files of a version of the data, md5 by path; None where the version is gone."""
        content = self.read(version)
        return (
            None
            if content is None
            else {str(one["relpath"]): str(one["md5"]) for one in json.loads(content)}
        )

    def data(self, version: str, place: Path) -> pd.DataFrame:
        """The manifest of a version of the data; it lies in a folder afterwards, and the identities
        beside it."""
        known = self.entries(version)
        if known is None:
            self.must(None, "the list of the data")
        for name in ("manifest.csv", "identities.csv"):
            if known and name in known:
                (place / name).write_bytes(self.must(known[name], name))
        return records.read_manifest(place)

    def table(self, version: str) -> pd.DataFrame | None:
        """The manifest of any version; None where it is gone or none."""
        known = self.entries(version)
        content = self.read(known["manifest.csv"]) if known and "manifest.csv" in known else None
        if content is None:
            return None
        with tempfile.TemporaryDirectory(prefix=stores.TEMPORARY) as place:
            (Path(place) / "manifest.csv").write_bytes(content)
            return files.read_csv(Path(place) / "manifest.csv", records.COLUMNS)

    def lists(self, version: str, named: _Named) -> bool | None:
        """Whether a version of the data has one of the records; None where it is gone."""
        if version not in self._ids:
            table = self.table(version)
            known = set() if table is None else set(table["record_id"])
            self._ids[version] = None if self.entries(version) is None else known
        ids = self._ids[version]
        return None if ids is None else not named.record_ids.isdisjoint(ids)

    def forgets(self, oid: str, wanted: set[str]) -> bool | None:
        """Whether a list of records to forget has all of these; None where it is gone."""
        content = self.read(oid)
        if content is None:
            return None
        lines = content.decode().splitlines()
        return wanted <= {line.partition(",")[0] for line in lines[1:]}


@dataclass
class _Named:
    """The records by all of their names, in every version of the data."""

    records: set[str]
    contents: set[str]
    record_ids: set[str]
    subject_ids: set[str]
    paths: set[str]
    identities: set[str]

    @classmethod
    def of(cls, table: pd.DataFrame, shelf: _Shelf, versions: set[str]) -> _Named:
        named = cls(
            set(),
            set(table["sha256"]),
            set(table["record_id"]),
            set(table["subject_id"][table["last"]]),
            set(table["path"]),
            set(table.attrs.get("identities", [])),
        )
        for version in sorted(versions):
            known, found = shelf.entries(version), shelf.table(version)
            if known is None or found is None:
                continue
            own = found[
                found["record_id"].isin(named.record_ids)
                | found["subject_id"].isin(named.subject_ids)
            ]
            named.record_ids |= set(own["record_id"])
            named.contents |= set(own["sha256"])
            named.paths |= set(own["path"])
            named.records |= {known[path] for path in own["path"] if path in known}
        return named


def _needed(here: str | None, named: _Named, shelf: _Shelf) -> tuple[set[str], set[str]]:
    """The md5 of every file that a remaining record of the data at hand needs, and the sha256 of
    the shared ones."""
    if here is None:
        return set(), set()
    known, found = shelf.entries(here), shelf.table(here)
    if known is None or found is None:
        raise ErasureError(
            "the list of the data at hand is neither in DVC's cache nor in a remote; restore it "
            "first"
        )
    rest = found[~found["record_id"].isin(named.record_ids)]
    return {known[path] for path in rest["path"] if path in known}, set(rest["sha256"])


def _leave_the_data(home: Path, sought: Sought) -> bool:
    """Take the records out of `data/`, if they are in it, and make a new version of the data;
    whether one was made."""
    pointer = home / "data.dvc"
    if not pointer.exists():
        return False
    if not (home / "data").exists():
        if not _named_in_pointer(home, sought):
            return False
        layout.ensure_data(home)
    table = records.read_table(home / "data")
    leaving = table["record_id"].isin(sought.record_ids).to_numpy(bool)
    for path in table.loc[
        leaving, "path"
    ]:  # the files first: what the manifest names can be found again
        (home / "data" / path).unlink(missing_ok=True)
    known = home / "data" / "identities.csv"
    if known.is_file() and sought.subject_ids:
        people = files.read_csv(known, ("identity_type", "identity_value", "subject_id"))
        left = people[~people["subject_id"].isin(sought.subject_ids)]
        if len(left) < len(people):
            files.write_text(known, left.to_csv(index=False, lineterminator="\n"))
    if leaving.any():
        kept = table[~leaving]
        files.write_text(
            home / "data" / "manifest.csv", kept.to_csv(index=False, lineterminator="\n")
        )
    if dvc_graph.content_hash(home / "data") == dvc_graph.data_folders(home).get("data.dvc"):
        return False
    layout.track_data(home)
    return True


def _named_in_pointer(home: Path, sought: Sought) -> bool:
    cache, remotes = stores.of_dvc(home)
    version = git_history.at_hand(home).data
    table = _Shelf(cache, remotes).table(version) if version else None
    return table is not None and bool(table["record_id"].isin(sought.record_ids).any())


def _hash_data(home: Path) -> str | None:
    return git_history.at_hand(home).data


def _also_kept(sought: Sought, cache: stores.Objects, version: str) -> Sought:
    """The list of the data at hand is kept, whatever its files are called."""
    from dataclasses import replace

    content = cache.read(version)
    listed = {str(one["md5"]) for one in json.loads(content)} if content else set()
    return replace(sought, keep=sought.keep | {version} | listed)


def _drop_pointers(home: Path, judge: Judge) -> None:
    """Remove `.dvc` files of the workspace whose content is erased, so that nobody looks for it."""
    for path, oid in git_history.at_hand(home).pointers.items():
        if oid in judge.gone and path != git_history.DATA:
            (home / f"{path}.dvc").unlink(missing_ok=True)


def _not_kept(home: Path, gone: set[str]) -> dict[str, list[str]]:
    """By closed state, the paths on record whose content is erased; `reproduce` quotes this."""
    lost: dict[str, list[str]] = {}
    for state in git_history.states(home, None):
        paths = sorted(path for path, oid in state.on_record().items() if oid in gone)
        for name in state.names:
            if paths:
                lost[name] = paths
    return lost


def _holds_records(part: str | None) -> bool:
    """Whether a store of part 7 holds records, so that the erasure is not complete without it."""
    return part is not None and (
        part in ("workspace", "dvc_cache") or part.startswith("dvc_remote:")
    )


def _by_part(done: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One receipt per store of part 7. The workspace's counts only if its other places are erased,
    too."""
    parts: dict[str, dict[str, Any]] = {}
    for receipt in done:
        part = receipt["part"]
        if part is not None and (part not in parts or receipt["state"] == "held"):
            parts[part] = receipt
    if parts.get("git", {}).get("state") == "erased":
        del parts["git"]  # nothing of the person was ever there
    return parts


def _sealed(receipt: dict[str, Any]) -> dict[str, Any]:
    """A receipt with the SHA-256 of its own text."""
    text = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**receipt, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _decided(home: Path, batch: str) -> dict[str, Any]:
    path = home / decisions.FOLDER / f"{batch}.json"
    found: dict[str, Any] = files.read_json(path) if path.exists() else {}
    return found


def _settings_at(home: Path, tag: str) -> settings.Settings:
    from ruamel.yaml import YAML

    return settings.parse(
        YAML(typ="safe").load(shell.git(home, "show", f"{tag}:./params.yaml")) or {}
    )


def _told(fates: Mapping[str, str]) -> str:
    return "; ".join(f"{request}: {fate}" for request, fate in fates.items())


def _has_tag(home: Path, tag: str) -> bool:
    return shell.succeeds(home, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}")


def _only(path: Path) -> bool:
    return {one.name for one in path.parent.iterdir()} <= {path.name, ".gitignore"}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
