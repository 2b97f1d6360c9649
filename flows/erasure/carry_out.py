"""Erasing the copies of a released batch's records: everywhere, looked at again afterwards, with a
receipt per store.

What has to go is planned first. Each store is erased, looked at again, and only then receipted;
before the erasure is tagged, all of them are looked at once more. Whatever was done before is found
done, so an erasure that was cut off continues, and a second one looks only for what came back.
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

from flows.erasure import comebacks, erasure_plan, git_history, papers, pool_rows, receipts
from flows.erasure.erasure_plan import ErasurePlan
from flows.erasure.matcher import Judge, Sought
from flows.erasure.shelf import Shelf
from flows.erasure.stores import databases, dvc, trees
from flows.erasure.stores import git as git_store
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
"""What the register lends to one at a time: deciding, releasing and erasing."""
HANDOVER = "handover"
"""Folder of a remote in which stages are handed to agents."""
ROUNDS = 3
"""How often all stores are looked at once more before the erasure gives up: something puts copies
back."""

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
        came_back: by store, copies that were there again after an earlier erasure.
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
    byte by byte. Of a batch that is erased already, what came back is erased again.

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
        DataInUseError: something fetches, checks out or writes data here.
        AuditError: the workspace, its data or DVC are not as they have to be.
    """
    with _alone(home, register) as check:
        task = _Task(home, batch, by or _operator(home), register, listener, temporary, check)
        return _erase(task)


@dataclass(frozen=True)
class _Task:
    """One erasure: what `erase` was given. `check` raises where the lease was lost."""

    home: Path
    batch: str
    by: str
    register: Register | None
    say: Listener
    temporary: list[Path] | None
    check: Callable[[], None]

    @property
    def safe(self) -> erasure_plan.Safe:
        return erasure_plan.Safe(self.home, self.batch)

    @property
    def filed(self) -> receipts.Filed:
        return receipts.Filed(self.home, self.batch)


@contextlib.contextmanager
def _alone(home: Path, register: Register | None) -> Iterator[Callable[[], None]]:
    """Nobody else decides, releases or erases; nothing fetches, checks out or writes data; and no
    DVC is at work in any checkout. Yields a check of the first."""
    with (
        register.lease(LEASE) if register else contextlib.nullcontext() as lease,
        dvc_locks.erasing(home),
    ):
        experiments = sorted((home / trees.EXPERIMENTS).glob("*"))
        for tree in (home, *trees.other_checkouts(home), *experiments):
            dvc_locks.sweep(tree)
            table = tree / ".dvc" / "tmp" / "rwlock"
            held = json.loads(table.read_text(encoding="utf-8") or "{}") if table.exists() else {}
            if held.get("read") or held.get("write"):
                raise ErasureError(
                    "DVC is at work in a checkout of this workspace; wait until it ended, then "
                    "try again"
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
        task.say("plan")
        task.safe.write(
            erasure_plan.make(
                task.home, task.batch, task.by, receipts.now(), task.register, task.safe
            )
        )
    if not tagged:
        _carry_out(task, task.safe.read())
    task.say("register")
    _move_requests(task)
    task.say("forget the plan")
    task.safe.forget()
    return _summary(task, new=True)


# -- before ---------------------------------------------------------------------------------------


def _refuse_held(task: _Task) -> None:
    """A hold that comes when a part is erased keeps the rest."""
    if task.register is None:
        return
    from flows.register.register import IN_BATCH

    # a hold on what the batch set aside keeps only that request
    cases = task.register.cases(IN_BATCH, task.batch)
    held = [case.request_id for case in cases if case.held]
    if held:
        raise ErasureError(
            f"batch {task.batch}: a legal hold lies on request {', '.join(held)}; nothing is "
            "erased before it is lifted"
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


def _carry_out(task: _Task, known: ErasurePlan) -> None:
    task.say("data")
    moved = _leave_the_data(task.home, known.sought)
    pool_rows.leave(task.home)
    cache, remotes = dvc.of_dvc(task.home, (HANDOVER,))
    task.say("worktree")
    checkouts.close(task.home, task.batch)  # all of it is in git and in DVC's stores
    version = git_history.at_hand(task.home).data
    sought = _with_data_kept(known.sought, cache, version) if version else known.sought
    judge = Judge(sought, known.gone)
    stores = _stores(task, cache, remotes)
    failed = _push(task.home, remotes, version) if moved else {}
    failed |= {
        f"dvc_remote:{name}": f"dvc_remote:{name} is no longer set up, so that it cannot be "
        "looked at"
        for name in known.remotes
        if f"dvc_remote:{name}" not in {store.name for store in stores}
    }
    done: dict[str, receipts.Receipt] = {}
    for store in stores:
        if store.name not in failed:
            try:
                done[store.name] = _erase_store(task, store, judge, known)
            except StoreError as error:
                failed[store.name] = str(error)
    _look_once_more(task, stores, judge, known, done, failed)
    _drop_pointers(task.home, judge)
    filed = [
        *done.values(),
        *receipts.of_models(known, judge, failed),
        *receipts.of_backups(known),
    ]
    task.filed.write(known, judge.gone, filed)
    comebacks.keep(task.home, task.batch, judge.gone)
    failed |= {
        receipt["store"]: receipt["reason"]
        for receipt in filed
        if receipt["state"] == "held" and receipts.is_record_store(receipt["part"])
    }
    _refuse_left(task, failed, len(stores))
    task.say("report")
    _report(task, known, filed)


def _refuse_left(task: _Task, failed: dict[str, str], total: int) -> None:
    """Stores that are not erased end the erasure, but for those of which people entered that they
    did it."""
    entered = {entry["store"] for entry in receipts.by_hand(task.home, task.batch)}
    left = {name: why for name, why in failed.items() if name not in entered}
    if left:
        raise ErasureError(
            f"batch {task.batch}: {len(left)} of {total} places are not erased, the others are: "
            f"{'; '.join(left.values())}. Run `erasure-audit erase {task.batch}` again when that "
            f"is mended, or enter a receipt of your own in ledger/decisions/{task.batch}.json "
            "(docs/erasure.md)"
        )


def _stores(
    task: _Task, cache: dvc.DvcObjects, remotes: list[dvc.DvcObjects | dvc.Remote]
) -> list[Store]:
    """All stores, in the order in which they are erased."""
    others = trees.other_checkouts(task.home)
    return [
        trees.Tree("workspace", task.home),
        *(trees.Tree(f"worktree:{number}", tree) for number, tree in enumerate(others, 1)),
        trees.Temporary(task.home, task.temporary),
        cache,
        *remotes,
        databases.Databases([task.home, *others]),
        databases.Witnesses("prefect", [databases.prefect_home(task.home)]),
        databases.Witnesses("register", [task.home / ".register"]),
        *([databases.RegisterRows(task.home)] if task.register else []),
        databases.Witnesses("inbox", [task.home / "inbox"]),
        git_store.GitHistory(task.home),
    ]


def _erase_store(task: _Task, store: Store, judge: Judge, known: ErasurePlan) -> receipts.Receipt:
    """Look, erase, look again; the receipt."""
    task.say(f"look at {store.name}")
    look = store.look(judge)
    before = task.filed.by_store().get(store.name)
    objection = look.objection(store.name)
    if before is not None and before["state"] == "erased" and not look.findings and not objection:
        return before  # an earlier run erased it, and it still is
    noted = known.erased.setdefault(store.name, {})
    noted |= {finding.key: finding.kind for finding in look.findings}
    known.gone = sorted(judge.gone)
    task.safe.write(known)
    if look.findings:
        task.say(f"erase {store.name}")
        task.check()
        store.erase(look.findings)
        task.say(f"look at {store.name} again")
        look = store.look(judge)
        if look.findings:
            raise StoreError(
                f"{store.name}: {len(look.findings)} things are there still after erasing them"
            )
    return receipts.of_store(known, store.name, store.part, judge, look, _held(store, look))


def _held(store: Store, look: Look) -> str | None:
    reasons = [store.held, look.objection(store.name) if store.name != "git" else None]
    return "; ".join(reason for reason in reasons if reason) or None


def _look_once_more(
    task: _Task,
    stores: list[Store],
    judge: Judge,
    known: ErasurePlan,
    done: dict[str, receipts.Receipt],
    failed: dict[str, str],
) -> None:
    """Look at every store again after the last one was erased: what was fetched or pushed
    meanwhile is erased, too, and everything is looked at again then."""
    for _ in range(ROUNDS):
        clean = True
        for store in stores:
            if store.name in failed or done[store.name]["state"] != "erased":
                continue
            task.say(f"look at {store.name} once more")
            try:
                look = store.look(judge)
                if look.findings or _held(store, look):
                    clean = False
                    done[store.name] = _erase_store(task, store, judge, known)
            except StoreError as error:
                failed[store.name] = str(error)
        if clean:
            return
    for name in [store.name for store in stores if receipts.is_record_store(store.part)]:
        failed.setdefault(
            name, f"{name}: copies come back while they are erased; end what brings them"
        )


def _push(
    home: Path, remotes: list[dvc.DvcObjects | dvc.Remote], version: str | None
) -> dict[str, str]:
    """What remains has to be in every remote before the old list of it goes; remotes for which
    that failed, with the reason."""
    failed: dict[str, str] = {}
    for remote in remotes:
        try:
            if isinstance(remote, dvc.DvcObjects) and version:
                # pushed to, a folder that is not mounted would look as if it were
                remote.refuse_empty()
                if not remote.has(version):
                    name = remote.name.partition(":")[2]
                    shell.dvc(home, "push", "--remote", name, "data.dvc")
        except AuditError as error:
            failed[remote.name] = str(error)
    return failed


def _leave_the_data(home: Path, sought: Sought) -> bool:
    """Take the records out of `data/`, if they are in it, and make a new version of the data;
    whether one was made."""
    if not (home / "data.dvc").exists():
        return False
    if not (home / "data").exists():
        if not _is_listed(home, sought):
            return False
        layout.ensure_data(home)
    table = records.read_table(home / "data")
    leaving = table["record_id"].isin(sought.record_ids).to_numpy(bool)
    # the files first: what the manifest names can be found again
    for path in table.loc[leaving, "path"]:
        (home / "data" / path).unlink(missing_ok=True)
    identities = home / "data" / "identities.csv"
    if identities.is_file() and sought.subject_ids:
        people = files.read_csv(identities, ("identity_type", "identity_value", "subject_id"))
        left = people[~people["subject_id"].isin(sought.subject_ids)]
        if len(left) < len(people):
            files.write_text(identities, left.to_csv(index=False, lineterminator="\n"))
    if leaving.any():
        kept = table[~leaving].to_csv(index=False, lineterminator="\n")
        files.write_text(home / "data" / "manifest.csv", kept)
    if dvc_graph.content_hash(home / "data") == dvc_graph.data_folders(home).get("data.dvc"):
        return False
    layout.track_data(home)
    return True


def _is_listed(home: Path, sought: Sought) -> bool:
    """Whether the data that `data.dvc` names have one of the records."""
    version = git_history.at_hand(home).data
    table = Shelf(*dvc.of_dvc(home)).table(version) if version else None
    return table is not None and bool(table["record_id"].isin(sought.record_ids).any())


def _with_data_kept(sought: Sought, cache: dvc.DvcObjects, version: str) -> Sought:
    """The list of the data at hand is kept, whatever its files are called."""
    content = cache.read(version)
    listed = {str(entry["md5"]) for entry in json.loads(content)} if content else set()
    return dataclasses.replace(sought, keep=sought.keep | {version} | listed)


def _drop_pointers(home: Path, judge: Judge) -> None:
    """Remove `.dvc` files of the workspace whose content is erased, so that nobody looks for it."""
    for path, oid in git_history.at_hand(home).pointers.items():
        if oid in judge.gone and path != git_history.DATA:
            (home / f"{path}.dvc").unlink(missing_ok=True)


# -- the end --------------------------------------------------------------------------------------


def _report(task: _Task, known: ErasurePlan, filed: list[receipts.Receipt]) -> None:
    """Make the report again with the receipts, sign it, commit and tag it."""
    home, batch = task.home, task.batch
    content = receipts.in_decisions(home, known, filed)
    if task.register is not None:
        from flows.register import recorded

        parties = recorded.parties_at(home, close_batch.tag_of(batch))
        content = recorded.in_decisions(content, task.register, batch, parties)
    files.write_json(home / decisions.FOLDER / f"{batch}.json", content)
    _commit(task, papers.renew(home, batch))


def _commit(task: _Task, changed: list[Path]) -> None:
    task.say("commit")
    home = task.home
    removed = shell.git(home, "ls-files", "--deleted", "--", "*.dvc").splitlines()
    listed = task.filed.path.with_suffix(comebacks.ENDING)
    written = (
        *changed,
        task.filed.path,
        listed,
        home / "data.dvc",
        home / f"{pool_table.FOLDER}.dvc",
    )
    paths = [path.relative_to(home).as_posix() for path in written if path.exists()]
    message = f"Copies of batch {task.batch} erased"
    git.commit(home, [*paths, *removed], message)
    task.say("tag")
    git.tag(home, tag_of(task.batch), message)


def _erase_again(task: _Task) -> Erased:
    """Look for what came back after the batch was erased, and erase it."""
    task.say("look again")
    checkouts.tidy(task.home)
    erased, left = comebacks.erase_again(task.home, task.batch, task.temporary)
    if erased or left:
        entry = {"at": receipts.now(), "by": task.by, "erased": erased, "left": left}
        task.filed.add_comeback(entry)
        path = task.filed.path.relative_to(task.home).as_posix()
        git.commit(task.home, [path], f"Copies of batch {task.batch} that came back erased")
    if left:
        raise ErasureError(f"batch {task.batch}, erased before: {'; '.join(left)}")
    return _summary(task, new=bool(erased), came_back=erased)


def _move_requests(task: _Task) -> None:
    """The register follows; requests that are there already, or are not in it, are left alone."""
    if task.register is None:
        return
    from flows.register.register import State

    fates = task.filed.read()["requests"]
    cases = {case.request_id: case for case in task.register.cases(batch=task.batch)}
    ready = [
        request
        for request, fate in fates.items()
        if fate == "erased" and request in cases and cases[request].state is State.RELEASED
    ]
    if ready:
        receipt = files.sha256(task.filed.path)
        task.register.move(ready, State.ERASED, task.by, receipt=receipt)


def _summary(task: _Task, new: bool, came_back: dict[str, int] | None = None) -> Erased:
    filed = task.filed.read()["stores"]
    held = {receipt["store"]: receipt["reason"] for receipt in filed if receipt["state"] == "held"}
    return Erased(task.batch, filed, held, tag_of(task.batch), new, came_back or {})


def _operator(home: Path) -> str:
    """Who is at work, as git knows him."""
    return git.user(home) or getpass.getuser()
