"""Erases the copies of a released batch's records in every store, with a receipt per store.

The erasure is planned first. Each store is erased and searched again, and only then gets its
receipt. Before the erasure is tagged, all stores are searched once more. Steps that are done are
not repeated, so an interrupted erasure continues; a second one only looks for copies that came
back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.erasure import comebacks, erasure_plan, git_history, pool_rows, receipts, report_renewal
from flows.erasure.erasure_plan import ErasurePlan
from flows.erasure.matcher import Judge, Sought
from flows.erasure.shelf import Shelf
from flows.erasure.stores import databases, dvc, git_objects, trees
from flows.erasure.stores.store import Look, Store, StoreError
from flows.intake import batch_requests
from flows.pipeline import close_batch
from flows.workspace import checkouts, dvc_graph, dvc_locks, git, layout, shell
from tasks.common import files
from tasks.common.errors import AuditError
from tasks.data import records
from tasks.pooling import table as pool_table
from tasks.requests import decisions

if TYPE_CHECKING:
    from flows.register.register import Register

LEASE = "release"
"""Lease of the register: only one process at a time decides, releases or erases."""
HANDOVER = "handover"
"""Folder of a remote for stages that agents run."""
ROUNDS = 3
"""How often all stores are searched once more before the erasure gives up because copies keep
coming back."""

Listener = Callable[[str], None]


class ErasureError(AuditError):
    """A batch's records cannot be erased, or are not erased everywhere yet."""


@dataclass(frozen=True)
class Erased:
    """The outcome of an erasure.

    Attributes:
        batch: its name.
        receipts: one per store, in the order of the erasing.
        held: stores in which something remains, with the reason.
        tag: of the state afterwards.
        new: False if everything was erased before.
        came_back: by store, the number of copies that came back after an earlier erasure.
    """

    batch: str
    receipts: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    tag: str | None = None
    new: bool = True
    came_back: dict[str, int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def tag_of(batch: str) -> str:
    """The tag of an erased batch."""
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

    The records of all requests that the batch carried out are erased, also of requests that were
    set aside only because no model was trained on their records. Data stay if their request was
    refused, is on hold, or has a claimed exception, and if a remaining record has the same bytes.
    If the batch is erased already, copies that came back are erased again.

    Args:
        home: the workspace.
        batch: its name.
        by: the responsible person; None: git's user.
        register: of the requests; None: no request is moved.
        listener: told of each step before it begins.
        temporary: folders that hold temporary folders; None: the machine's.

    Raises:
        ErasureError: the batch is not released; or some stores cannot be erased now, and all others
            are.
        BusyError: another process decides, releases or erases.
        DataInUseError: another process fetches, checks out or writes data here.
        AuditError: the workspace, its data or DVC cannot be used.
    """
    with _exclusively(home, register) as check:
        task = _Task(home, batch, by or _operator(home), register, listener, temporary, check)
        return _erase(task)


@dataclass(frozen=True)
class _Task:
    """One erasure: the arguments of `erase`. `check` raises if the lease was lost."""

    home: Path
    batch: str
    by: str
    register: Register | None
    listener: Listener
    temporary: list[Path] | None
    check: Callable[[], None]

    @property
    def safe(self) -> erasure_plan.Safe:
        return erasure_plan.Safe(self.home, self.batch)

    @property
    def filed(self) -> receipts.Filed:
        return receipts.Filed(self.home, self.batch)


@contextlib.contextmanager
def _exclusively(home: Path, register: Register | None) -> Iterator[Callable[[], None]]:
    """Keep other processes from deciding, releasing and erasing, and from using the data; refuse if
    DVC runs in a checkout. Yields a check of the lease."""
    with (
        register.lease(LEASE) if register else contextlib.nullcontext() as lease,
        dvc_locks.erasing(home),
    ):
        experiments = sorted((home / trees.EXPERIMENTS).glob("*"))
        for tree in (home, *trees.other_checkouts(home), *experiments):
            dvc_locks.sweep(tree)
            table = tree / ".dvc" / "tmp" / "rwlock"
            locks = json.loads(table.read_text(encoding="utf-8") or "{}") if table.exists() else {}
            if locks.get("read") or locks.get("write"):
                raise ErasureError(
                    "DVC is running in a checkout of this workspace; wait until it ends, then try "
                    "again"
                )
        yield lease.check if lease is not None else lambda: None


def _erase(task: _Task) -> Erased:
    if task.register is not None:
        batch_requests.check(task.home, task.register, task.batch)
    tagged = git.has_tag(task.home, tag_of(task.batch))
    if tagged and not task.safe.exists():
        _move_requests(task)
        return _erase_again(task)
    _refuse_held(task)
    if not task.safe.exists():
        _refuse_unreleased(task)
        task.listener("plan")
        task.safe.write(
            erasure_plan.make(
                task.home, task.batch, task.by, files.timestamp(), task.register, task.safe
            )
        )
    if not tagged:
        _carry_out(task, task.safe.read())
    task.listener("register")
    _move_requests(task)
    task.listener("forget the plan")
    task.safe.forget()
    return _summary(task, new=True)


# -- before ---------------------------------------------------------------------------------------


def _refuse_held(task: _Task) -> None:
    """Refuse a batch with a request on hold, also if a part is erased already."""
    if task.register is None:
        return
    from flows.register.register import IN_BATCH

    # a hold on a request that was set aside affects only that request
    cases = task.register.cases(IN_BATCH, task.batch)
    held = [case.request_id for case in cases if case.held]
    if held:
        raise ErasureError(
            f"batch {task.batch}: request {', '.join(held)} is on legal hold; nothing is erased "
            "before the hold is lifted"
        )


def _refuse_unreleased(task: _Task) -> None:
    audited = close_batch.tag_of(task.batch)
    if not git.has_tag(task.home, audited):
        raise ErasureError(
            f"no tag {audited}: the batch is not audited, so there is nothing to erase yet"
        )
    if not git.has_tag(task.home, f"release/{task.batch}"):
        raise ErasureError(
            f"batch {task.batch} is not released: the model in use still is one that saw the "
            f"records. See `erasure-audit approve` and `erasure-audit release {task.batch}`"
        )
    batches = (task.home / checkouts.FOLDER).resolve()
    for tree in (tree.resolve() for tree in trees.other_checkouts(task.home)):
        name = tree.relative_to(batches).parts[0] if tree.is_relative_to(batches) else None
        if name is not None and not git.has_tag(task.home, close_batch.tag_of(name)):
            raise ErasureError(
                f"batch {name} is under way and reads the data; erase {task.batch} when it is "
                "audited"
            )


# -- the stores -----------------------------------------------------------------------------------


def _carry_out(task: _Task, plan: ErasurePlan) -> None:
    task.listener("data")
    has_new_version = _drop_from_data(task.home, plan.sought)
    pool_rows.drop_leaving_rows(task.home)
    cache, remotes = dvc.of_dvc(task.home, (HANDOVER,))
    task.listener("worktree")
    checkouts.close(task.home, task.batch)  # git and DVC's stores have all of it
    version = git_history.current_state(task.home).data
    sought = _with_data_kept(plan.sought, cache, version) if version else plan.sought
    judge = Judge(sought, plan.gone)
    stores = _stores(task, cache, remotes)
    failed = _push(task.home, remotes, version) if has_new_version else {}
    failed |= {
        f"dvc_remote:{name}": f"dvc_remote:{name} is no longer set up, so it cannot be searched"
        for name in plan.remotes
        if f"dvc_remote:{name}" not in {store.name for store in stores}
    }
    done_stores: dict[str, receipts.Receipt] = {}
    for store in stores:
        if store.name not in failed:
            try:
                done_stores[store.name] = _erase_store(task, store, judge, plan)
            except StoreError as error:
                failed[store.name] = str(error)
    _final_looks(task, stores, judge, plan, done_stores, failed)
    _drop_pointers(task.home, judge)
    filed = [
        *done_stores.values(),
        *receipts.of_models(plan, judge, failed),
        *receipts.of_backups(plan),
    ]
    task.filed.write(plan, judge.gone, filed)
    comebacks.write_hashes(task.home, task.batch, judge.gone)
    failed |= {
        receipt["store"]: receipt["reason"]
        for receipt in filed
        if receipt["state"] == "held" and receipts.is_record_store(receipt["part"])
    }
    _refuse_remaining(task, failed, len(stores))
    task.listener("report")
    _report(task, plan, filed)


def _refuse_remaining(task: _Task, failed: dict[str, str], total: int) -> None:
    """Raise `ErasureError` for stores that are not erased, except those that people erased by
    hand and entered into the decisions."""
    entered = {entry["store"] for entry in receipts.by_hand(task.home, task.batch)}
    remaining = {name: why for name, why in failed.items() if name not in entered}
    if remaining:
        raise ErasureError(
            f"batch {task.batch}: {len(remaining)} of {total} stores are not erased, the others "
            f"are: {'; '.join(remaining.values())}. Run `erasure-audit erase {task.batch}` again "
            "when that is fixed, or enter a receipt of your own in "
            f"ledger/decisions/{task.batch}.json (docs/erasure.md)"
        )


def _stores(
    task: _Task, cache: dvc.DvcObjects, remotes: list[dvc.DvcObjects | dvc.Remote]
) -> list[Store]:
    """All stores, in the order in which they are erased."""
    checkouts_beside = trees.other_checkouts(task.home)
    return [
        trees.Tree("workspace", task.home),
        *(
            trees.Tree(f"worktree:{number}", tree)
            for number, tree in enumerate(checkouts_beside, 1)
        ),
        trees.Temporary(task.home, task.temporary),
        cache,
        *remotes,
        databases.Databases([task.home, *checkouts_beside]),
        databases.Witnesses("prefect", [databases.prefect_home(task.home)]),
        databases.Witnesses("register", [task.home / ".register"]),
        *([databases.RegisterRows(task.home)] if task.register else []),
        databases.Witnesses("inbox", [task.home / "inbox"]),
        git_objects.GitHistory(task.home),
    ]


def _erase_store(task: _Task, store: Store, judge: Judge, plan: ErasurePlan) -> receipts.Receipt:
    """Search a store, erase the findings, search again, and return the receipt."""
    task.listener(f"look at {store.name}")
    look = store.look(judge)
    earlier = task.filed.by_store().get(store.name)
    objection = look.objection(store.name)
    if earlier is not None and earlier["state"] == "erased" and not look.findings and not objection:
        return earlier  # an earlier run erased it, and nothing came back
    noted = plan.erased.setdefault(store.name, {})
    noted |= {finding.key: finding.kind for finding in look.findings}
    plan.gone = sorted(judge.gone)
    task.safe.write(plan)
    if look.findings:
        task.listener(f"erase {store.name}")
        task.check()
        store.erase(look.findings)
        task.listener(f"look at {store.name} again")
        look = store.look(judge)
        if look.findings:
            raise StoreError(
                f"{store.name}: {len(look.findings)} copies are still there after erasing them"
            )
    return receipts.of_store(plan, store.name, store.part, judge, look, _held(store, look))


def _held(store: Store, look: Look) -> str | None:
    reasons = [store.held, look.objection(store.name) if store.name != "git" else None]
    return "; ".join(reason for reason in reasons if reason) or None


def _final_looks(
    task: _Task,
    stores: list[Store],
    judge: Judge,
    plan: ErasurePlan,
    done_stores: dict[str, receipts.Receipt],
    failed: dict[str, str],
) -> None:
    """Search every store again after the last one was erased. Copies that were fetched or pushed
    meanwhile are erased, too, and then all stores are searched again."""
    for _ in range(ROUNDS):
        clean = True
        for store in stores:
            if store.name in failed or done_stores[store.name]["state"] != "erased":
                continue
            task.listener(f"look at {store.name} once more")
            try:
                look = store.look(judge)
                if look.findings or _held(store, look):
                    clean = False
                    done_stores[store.name] = _erase_store(task, store, judge, plan)
            except StoreError as error:
                failed[store.name] = str(error)
        if clean:
            return
    for name in [store.name for store in stores if receipts.is_record_store(store.part)]:
        failed.setdefault(
            name, f"{name}: copies come back while they are erased; stop the process that adds them"
        )


def _push(
    home: Path, remotes: list[dvc.DvcObjects | dvc.Remote], version: str | None
) -> dict[str, str]:
    """Push the remaining data to every remote before their old list is erased. Returns the remotes
    for which that failed, with the reason."""
    failed: dict[str, str] = {}
    for remote in remotes:
        try:
            if isinstance(remote, dvc.DvcObjects) and version:
                # a push would make an unmounted folder look mounted
                remote.refuse_empty()
                if not remote.has(version):
                    name = remote.name.partition(":")[2]
                    shell.dvc(home, "push", "--remote", name, "data.dvc")
        except AuditError as error:
            failed[remote.name] = str(error)
    return failed


def _drop_from_data(home: Path, sought: Sought) -> bool:
    """Remove the records from `data/`. Returns whether that made a new version of the data."""
    if not (home / "data.dvc").exists():
        return False
    if not (home / "data").exists():
        if not _is_listed(home, sought):
            return False
        layout.ensure_data(home)
    table = records.read_table(home / "data")
    leaving = table["record_id"].isin(sought.record_ids).to_numpy(bool)
    # files first: after a kill the manifest still names them
    for path in table.loc[leaving, "path"]:
        (home / "data" / path).unlink(missing_ok=True)
    identities = home / "data" / "identities.csv"
    if identities.is_file() and sought.subject_ids:
        people = files.read_csv(identities, ("identity_type", "identity_value", "subject_id"))
        remaining_people = people[~people["subject_id"].isin(sought.subject_ids)]
        if len(remaining_people) < len(people):
            files.write_text(identities, remaining_people.to_csv(index=False, lineterminator="\n"))
    if leaving.any():
        remaining_rows = table[~leaving].to_csv(index=False, lineterminator="\n")
        files.write_text(home / "data" / "manifest.csv", remaining_rows)
    if dvc_graph.content_hash(home / "data") == dvc_graph.data_folders(home).get("data.dvc"):
        return False
    layout.track_data(home)
    return True


def _is_listed(home: Path, sought: Sought) -> bool:
    """Whether the data that `data.dvc` names contain one of the records."""
    version = git_history.current_state(home).data
    table = Shelf(*dvc.of_dvc(home)).table(version) if version else None
    return table is not None and bool(table["record_id"].isin(sought.record_ids).any())


def _with_data_kept(sought: Sought, cache: dvc.DvcObjects, version: str) -> Sought:
    """Keep the list of the current data and its files, whatever their names."""
    content = cache.read(version)
    listed = {str(entry["md5"]) for entry in json.loads(content)} if content else set()
    return dataclasses.replace(sought, keep=sought.keep | {version} | listed)


def _drop_pointers(home: Path, judge: Judge) -> None:
    """Remove `.dvc` files of the workspace whose content is erased."""
    for path, oid in git_history.current_state(home).pointers.items():
        if oid in judge.gone and path != git_history.DATA:
            (home / f"{path}.dvc").unlink(missing_ok=True)


# -- the end --------------------------------------------------------------------------------------


def _report(task: _Task, plan: ErasurePlan, filed: list[receipts.Receipt]) -> None:
    """Make the reports again with the receipts, sign, commit and tag them."""
    home, batch = task.home, task.batch
    content = receipts.in_decisions(home, plan, filed)
    if task.register is not None:
        from flows.register import recorded

        parties = recorded.parties_at(home, close_batch.tag_of(batch))
        content = recorded.in_decisions(content, task.register, batch, parties)
    files.write_json(home / decisions.FOLDER / f"{batch}.json", content)
    _commit(task, report_renewal.renew(home, batch))


def _commit(task: _Task, report_files: list[Path]) -> None:
    task.listener("commit")
    home = task.home
    removed = shell.git(home, "ls-files", "--deleted", "--", "*.dvc").splitlines()
    hash_list = task.filed.path.with_suffix(comebacks.ENDING)
    changed_files = (
        *report_files,
        task.filed.path,
        hash_list,
        home / "data.dvc",
        home / f"{pool_table.FOLDER}.dvc",
    )
    paths = [path.relative_to(home).as_posix() for path in changed_files if path.exists()]
    message = f"Copies of batch {task.batch} erased"
    git.commit(home, [*paths, *removed], message)
    task.listener("tag")
    git.tag(home, tag_of(task.batch), message)


def _erase_again(task: _Task) -> Erased:
    """Search for copies that came back after the batch was erased, and erase them."""
    task.listener("look again")
    checkouts.tidy(task.home)
    erased, remaining = comebacks.erase_again(task.home, task.batch, task.temporary)
    if erased or remaining:
        entry = {"at": files.timestamp(), "by": task.by, "erased": erased, "left": remaining}
        task.filed.add_comeback(entry)
        path = task.filed.path.relative_to(task.home).as_posix()
        git.commit(task.home, [path], f"Copies of batch {task.batch} that came back erased")
    if remaining:
        raise ErasureError(f"batch {task.batch}, erased before: {'; '.join(remaining)}")
    return _summary(task, new=bool(erased), came_back=erased)


def _move_requests(task: _Task) -> None:
    """Move the batch's released requests to `erased` in the register."""
    if task.register is None:
        return
    from flows.register.register import State

    fates = task.filed.read()["requests"]
    cases = {case.request_id: case for case in task.register.cases(batch=task.batch)}
    released = [
        request
        for request, fate in fates.items()
        if fate == "erased" and request in cases and cases[request].state is State.RELEASED
    ]
    if released:
        receipt = files.sha256(task.filed.path)
        task.register.move(released, State.ERASED, task.by, receipt=receipt)


def _summary(task: _Task, new: bool, came_back: dict[str, int] | None = None) -> Erased:
    filed = task.filed.read()["stores"]
    held = {receipt["store"]: receipt["reason"] for receipt in filed if receipt["state"] == "held"}
    return Erased(task.batch, filed, held, tag_of(task.batch), new, came_back or {})


def _operator(home: Path) -> str:
    """The operator: git's user, else the login name."""
    return git.user(home) or getpass.getuser()
