"""Hands stages with `meta: {agent: gpu}` to Prefect workers on other machines, and fetches their
results.

Results come as DVC objects and an entry of DVC's run cache, so the caller's own `dvc repro` of the
stage restores them as if it had run the stage itself. A stage may finish twice: results are stored
under their hashes, and the caller takes the first ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.agents import parcel as parcels
from flows.agents.parcel import HANDOVER, sweep
from flows.pipeline.console import counted
from flows.pipeline.stage_runner import KilledStageError, StageNews
from flows.workspace import environment, shell
from tasks.common import files
from tasks.common.errors import SettingsError, StageError, WorkspaceError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

__all__ = ["HANDOVER", "Agents", "find_agents", "online", "sweep"]

MODE = "ERASURE_AUDIT_AGENTS"
"""Environment variable: `auto` (hand stages out if a worker is online, else run here), `here`
(never hand out), `pool` (always)."""
SILENCE = "ERASURE_AUDIT_AGENT_SILENCE"
"""Environment variable: time without a sign of life after which an agent counts as lost, s."""
WAIT = "ERASURE_AUDIT_AGENT_WAIT"
"""Environment variable: time without an online worker after which a waiting stage runs here, s."""

Mode = Literal["auto", "here", "pool"]

POLL = 1.0
"""Time between two looks at a run, s."""
FETCHES, FETCH_PAUSE = 4, 5.0
"""How often to look for the results of a completed run, and the time between two looks, s."""
TRIES = 2
"""How often a stage is handed out: a second time if its agent is lost."""
STARTING = 180.0
"""How long an agent may take until its first sign of life, s: it starts Python and Prefect."""
PATIENCE = 300.0
"""How long Prefect's server may fail to answer while a stage runs, s."""


class AgentError(StageError):
    """A stage could not be run on any agent."""


class _LostError(Exception):
    """The stage's agent is gone, or could not run it."""


class _NobodyError(Exception):
    """No agent takes the stage."""


@dataclass(frozen=True)
class Patience:
    """Times, s.

    Attributes:
        silence: without a sign of life until an agent counts as lost.
        wait: without an online worker until a waiting stage runs here.
        starting: until the first sign of life.
        poll: between two looks at a run.
        fetch_pause: between two looks for the results of a completed run.
    """

    silence: float
    wait: float
    starting: float = STARTING
    poll: float = POLL
    fetch_pause: float = FETCH_PAUSE

    @classmethod
    def from_environment(cls) -> Patience:
        """The times that the environment sets, or their defaults."""
        return cls(_seconds(SILENCE, 90.0), _seconds(WAIT, 120.0))


def find_agents(workspace: Path, batch: str, log: Callable[[str], None]) -> Agents | None:
    """The agents for the stages of a run; None: there are none, every stage runs here.

    Args:
        workspace: the caller's.
        batch: the batch.
        log: receives a line if agents are set up and cannot be used.

    Raises:
        SettingsError: `ERASURE_AUDIT_AGENTS` has an unknown value.
        AgentError: it is `pool`, and there is no permanent Prefect server or no DVC remote.
    """
    from prefect.settings import PREFECT_API_URL

    mode = _mode()
    if mode == "here":
        return None
    if not PREFECT_API_URL.value():
        if mode == "pool":
            raise AgentError(f"{MODE}=pool needs a standing Prefect server; set PREFECT_API_URL")
        return None
    try:
        post = parcels.Post(workspace)
    except parcels.RemoteError as error:
        if mode == "pool":
            raise AgentError(str(error)) from error
        log(f"Everything runs here: {error}")
        return None
    parcels.clear_depots(workspace)
    return Agents(workspace, batch, post, mode)


def online(client: SyncPrefectClient, pool: str) -> list[str]:
    """The names of a pool's online workers, sorted; empty if there is no such pool."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    try:
        workers = client.read_workers_for_work_pool(pool)
    except ObjectNotFound:
        return []
    return sorted(worker.name for worker in workers if worker.status == WorkerStatus.ONLINE)


def prefect_client() -> AbstractContextManager[SyncPrefectClient]:
    """A client of the Prefect server."""
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


class Agents:
    """Hands stages of one run of a batch to agents, several at once, each from its own thread.

    Attributes:
        mode: whether stages may run here instead.
        patience: how long to wait for an agent, or for a free one.
    """

    def __init__(
        self,
        workspace: Path,
        batch: str,
        post: parcels.Post,
        mode: Mode = "auto",
        connect: Callable[[], AbstractContextManager[SyncPrefectClient]] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._connect = connect or prefect_client
        self._workspace = workspace
        self._batch = batch
        self._post = post
        self.mode = mode
        self.patience = patience or Patience.from_environment()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._sent: set[str] = set()
        self._out: dict[Any, parcels.Parcel] = {}

    def fetch_results(self, stage: str, agent: str, tell: StageNews) -> bool:
        """Run a stage on an agent and fetch its results into DVC's cache. Returns False if the
        stage has to run here.

        Raises:
            StageError: the stage failed there; the text is its own message.
            AgentError: two agents in a row were lost.
            KilledStageError: the run was stopped.
        """
        try:
            return self._fetch_results(stage, agent, tell)
        except _prefect_away() as error:
            raise AgentError(
                f"{stage}: Prefect's server failed ({type(error).__name__}); run it again"
            ) from error
        except (parcels.RemoteError, parcels.UnportableError, _NobodyError) as error:
            if self.mode == "pool" and not isinstance(error, parcels.UnportableError):
                raise AgentError(f"{stage}: {error}") from error
            tell(f"runs here: {error}")
            return False

    def stop(self) -> None:
        """Withdraw every stage that was handed out: agents stop and return nothing."""
        self._stopped.set()
        with self._lock:
            out = dict(self._out)
        for run, parcel in out.items():
            self.withdraw(run, parcel, "The caller was stopped")

    def close(self) -> None:
        """Remove this run's parcels from the remote."""
        if self._sent:
            # if that fails, the next run of the batch, or its erasure, removes them
            with contextlib.suppress(parcels.RemoteError):
                sweep(self._workspace, self._batch)

    def _fetch_results(self, stage: str, pool: str, tell: StageNews) -> bool:
        parcel = parcels.collect(self._workspace, stage, self._batch)
        if parcel is None or self._is_cached(parcel):
            return False
        if self.fetch(parcel):
            tell("the results are on the remote already")
            return True
        with self._connect() as client:
            self._require_somebody(client, pool)
            self.send(parcel, tell)
            try:
                self._until_done(client, parcel, pool, tell)
            finally:
                with contextlib.suppress(parcels.RemoteError):  # `close` tries again
                    self._post.remove(parcel.name)
        return True

    def _until_done(
        self, client: SyncPrefectClient, parcel: parcels.Parcel, pool: str, tell: StageNews
    ) -> None:
        lost = ""
        for _ in range(TRIES):
            run = self._under_way(client, parcel, tell) or self._hand_out(
                client, parcel, pool, tell
            )
            with self._lock:
                self._out[run.id] = parcel
            try:
                self._follow(client, run, parcel, pool, tell)
                self._fetch_for_certain(parcel)
            except _LostError as error:
                lost = str(error)
                tell(f"the agent is lost: {lost}")
                self._mark_lost(client, run.id, lost)
            else:
                return
            finally:
                with self._lock:
                    self._out.pop(run.id, None)
        raise AgentError(
            f"{parcel.stage}: {TRIES} agents one after the other were lost with it; the last: "
            f"{lost}"
        )

    def _follow(
        self,
        client: SyncPrefectClient,
        run: FlowRun,
        parcel: parcels.Parcel,
        pool: str,
        tell: StageNews,
    ) -> None:
        """Wait until a run is completed; `_ACTIONS` maps each of its states to an action."""
        watch = _Watch(self._post, parcel, str(run.id), self.patience, tell)
        followed = _Followed(self, client, run.id, parcel, pool, watch)
        away_since = None
        while not self._stopped.wait(self.patience.poll):
            try:
                state = client.read_flow_run(run.id).state
                action = _ACTIONS["SCHEDULED" if state is None else state.type.name]
                if action(followed, (state and state.message) or ""):
                    return
            except _prefect_away() as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE:
                    raise AgentError(
                        f"{parcel.stage}: Prefect's server is away ({type(error).__name__})"
                    ) from error
            else:
                away_since = None
        self.withdraw(run.id, parcel, "The caller was stopped")
        raise KilledStageError(f"{parcel.stage} was stopped")

    def _require_somebody(self, client: SyncPrefectClient, pool: str) -> None:
        from prefect.exceptions import ObjectNotFound

        from flows.agents.stage_flow import FLOW

        try:
            workers = online(client, pool)
            client.read_deployment_by_name(f"{FLOW}/{pool}")
        except ObjectNotFound as error:
            raise _NobodyError(
                f"no agent was ever started for pool {pool}, see `erasure-audit agent start`"
            ) from error
        except _prefect_away() as error:
            raise _NobodyError(
                f"Prefect's server does not answer ({type(error).__name__})"
            ) from error
        if not workers and self.mode == "auto":
            raise _NobodyError(f"no worker of pool {pool} is online")

    def _under_way(
        self, client: SyncPrefectClient, parcel: parcels.Parcel, tell: StageNews
    ) -> FlowRun | None:
        """An unfinished run of the same work, from a killed caller or another run of the batch."""
        from prefect.client.schemas.filters import FlowRunFilter
        from prefect.client.schemas.objects import StateType

        same_work = FlowRunFilter.model_validate(
            {
                "tags": {"all_": _tags(parcel)},
                "state": {
                    "type": {"any_": [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]}
                },
            }
        )
        runs = client.read_flow_runs(flow_run_filter=same_work, limit=1)
        if runs:
            tell("is under way on an agent already")
        return runs[0] if runs else None

    def _hand_out(
        self, client: SyncPrefectClient, parcel: parcels.Parcel, pool: str, tell: StageNews
    ) -> FlowRun:
        from flows.agents.stage_flow import FLOW

        packed = parcel.pack()
        self._post.put(f"{parcel.name}/{parcels.PARCEL}", packed)
        run = client.create_flow_run_from_deployment(
            client.read_deployment_by_name(f"{FLOW}/{pool}").id,
            name=f"{parcel.batch}/{parcel.stage}",
            tags=_tags(parcel),
            parameters={
                "stage": parcel.stage,
                "batch": parcel.batch,
                "parcel": parcel.name,
                "sha256": parcels.digest(packed),
            },
        )
        tell(f"handed to pool {pool}")
        return run

    def withdraw(self, run: Any, parcel: parcels.Parcel, why: str) -> None:
        """Cancel a run and remove its parcel: without it the agent stops even if it does not learn
        of the cancellation."""
        from prefect.states import Cancelled, Cancelling

        with contextlib.suppress(parcels.RemoteError):
            self._post.remove(parcel.name)
        with contextlib.suppress(*_prefect_away()), self._connect() as client:
            state = client.read_flow_run(run).state
            if state is not None and not state.is_final():
                is_on_agent = state.is_running() or state.is_pending()
                client.set_flow_run_state(
                    run, Cancelling(message=why) if is_on_agent else Cancelled(message=why)
                )

    def _mark_lost(self, client: SyncPrefectClient, run: Any, why: str) -> None:
        from prefect.states import Crashed

        with contextlib.suppress(*_prefect_away()):
            state = client.read_flow_run(run).state
            if state is not None and not state.is_final():
                client.set_flow_run_state(run, Crashed(message=f"Lost: {why}"), force=True)

    def _is_cached(self, parcel: parcels.Parcel) -> bool:
        """Whether the workspace's own cache has the results, so that DVC can restore them."""
        cache = parcels.cache_of(self._workspace)
        entries = [
            parcels.outputs_of(path.read_bytes())
            for path in sorted((cache / parcel.runs).glob("*"))
        ]
        return any(_has_all(cache, outputs) for outputs in entries if outputs)

    def fetch(self, parcel: parcels.Parcel) -> bool:
        """Fetch the results from the remote into the workspace's cache, then the entry of the run
        cache. Returns whether they were there.

        DVC's own `dvc fetch --run-cache` would fetch the results of all runs ever.
        """
        cache = parcels.cache_of(self._workspace)
        for path in self._post.below(parcel.runs):
            entry = self._post.get(path)
            outputs = parcels.outputs_of(entry) if entry is not None else None
            if entry is None or not outputs:
                continue
            try:
                with parcels.depot(self._workspace, outputs, cache) as depot:
                    self._dvc(depot, "fetch")
            except WorkspaceError:
                continue
            if _has_all(cache, outputs):  # else e.g. an erasure removed them
                files.write_bytes(cache / path, entry)
                return True
        return False

    def _fetch_for_certain(self, parcel: parcels.Parcel) -> None:
        """Fetch the results of a completed run; a few failures of the remote are tolerated."""
        for _ in range(FETCHES):
            with contextlib.suppress(parcels.RemoteError):
                if self.fetch(parcel):
                    return
            if self._stopped.wait(self.patience.fetch_pause):
                raise KilledStageError(f"{parcel.stage} was stopped")
        raise _LostError("its results are not on the remote; does it have another remote?")

    def send(self, parcel: parcels.Parcel, tell: StageNews) -> None:
        """Push the stage's inputs, except those that this run has pushed before."""
        cache = parcels.cache_of(self._workspace)
        with self._sending:
            missing = {path: md5 for path, md5 in parcel.inputs.items() if md5 not in self._sent}
            if missing:
                tell(f"sends {counted(len(missing), 'input')} to remote {self._post.name}")
                try:
                    with parcels.depot(self._workspace, missing, cache) as depot:
                        self._dvc(depot, "push")
                except WorkspaceError as error:
                    raise parcels.RemoteError(f"the inputs could not be sent: {error}") from error
                self._sent.update(missing.values())

    def _dvc(self, folder: Path, *arguments: str) -> None:
        """Run DVC in a folder; it is killed when the run is stopped."""
        with subprocess.Popen(
            [*shell.DVC, *arguments],
            cwd=folder,
            env=environment.child(self._workspace),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            while True:
                try:
                    output, _ = process.communicate(timeout=self.patience.poll)
                    break
                except subprocess.TimeoutExpired:
                    if self._stopped.is_set():
                        process.kill()
            if self._stopped.is_set():
                raise KilledStageError("the run was stopped")
            if process.returncode != 0:
                lines = [
                    line.removeprefix("ERROR: ")
                    for line in output.splitlines()
                    if line.startswith("ERROR")
                ]
                raise WorkspaceError(
                    f"dvc {arguments[0]} failed: {' '.join(lines) or 'no message'}"
                )


class _Followed:
    """A followed run, with an action for each of its states.

    An action returns whether the run is completed, or raises the error of its state.
    """

    def __init__(
        self,
        agents: Agents,
        client: SyncPrefectClient,
        run: Any,
        parcel: parcels.Parcel,
        pool: str,
        watch: _Watch,
    ) -> None:
        self._agents, self._client, self._run = agents, client, run
        self._parcel, self._pool, self._watch = parcel, pool, watch
        self._nobody_since: float | None = None

    def waits(self, _message: str) -> bool:
        """No worker has taken it. After a time without an online worker the stage runs here."""
        if online(self._client, self._pool):
            self._nobody_since = None
            return False
        self._nobody_since = self._nobody_since or time.monotonic()
        waited = time.monotonic() - self._nobody_since
        if self._agents.mode == "auto" and waited > self._agents.patience.wait:
            self._agents.withdraw(self._run, self._parcel, "No worker took it")
            raise _NobodyError(f"no worker of pool {self._pool} is online any more")
        return False

    def runs(self, _message: str) -> bool:
        """An agent runs it and must give signs of life."""
        self._watch.look()
        return False

    def completed(self, _message: str) -> bool:
        """The run is completed."""
        return True

    def failed(self, message: str) -> bool:
        """The stage failed."""
        raise StageError(message or f"{self._parcel.stage} failed on an agent without a message")

    def crashed(self, message: str) -> bool:
        """The agent is gone, or could not run the stage."""
        raise _LostError(message or "its run crashed")

    def cancelled(self, message: str) -> bool:
        """A person cancelled it."""
        reason = message or "no reason given"
        raise StageError(f"{self._parcel.stage} was cancelled in Prefect: {reason}")


_ACTIONS: dict[str, Callable[[_Followed, str], bool]] = {
    "SCHEDULED": _Followed.waits,
    "PENDING": _Followed.runs,
    "RUNNING": _Followed.runs,
    "PAUSED": _Followed.runs,
    "COMPLETED": _Followed.completed,
    "FAILED": _Followed.failed,
    "CRASHED": _Followed.crashed,
    "CANCELLED": _Followed.cancelled,
    "CANCELLING": _Followed.cancelled,
}
"""The action for each type of Prefect's states."""


class _Watch:
    """Looks for an agent's signs of life. Only this machine's clock counts, so clocks may
    differ."""

    def __init__(
        self,
        post: parcels.Post,
        parcel: parcels.Parcel,
        run: str,
        patience: Patience,
        tell: StageNews,
    ) -> None:
        self._post = post
        self._path = f"{parcel.name}/{parcels.ALIVE}-{run}"
        self._patience = patience
        self._tell = tell
        self._last_sign: dict[str, Any] = {}
        self._looked = self._heard = time.monotonic()

    def look(self) -> None:
        """Read the latest sign of life. Raises `_LostError` if there was none for too long."""
        now = time.monotonic()
        if now - self._looked < min(5.0, self._patience.silence / 10):
            return
        unheard, self._looked = now - self._looked, now
        try:
            sign = json.loads(self._post.get(self._path) or b"{}")
        except parcels.RemoteError:
            self._heard += unheard  # the remote failed, not the agent
            return
        except ValueError:
            sign = self._last_sign  # in the middle of a write
        if sign.get("agent") and not self._last_sign:
            self._tell(f"runs on {sign['agent']} (process {sign['pid']})")
        if sign.get("line") and sign["line"] != self._last_sign.get("line"):
            self._tell(sign["line"], "line")
        if sign != self._last_sign:
            self._last_sign, self._heard = sign, now
        silence = self._patience.silence
        allowed = silence if self._last_sign else max(silence, self._patience.starting)
        if now - self._heard > allowed:
            raise _LostError(f"no sign of life for {now - self._heard:.0f} s")


def _has_all(cache: Path, outputs: dict[str, str]) -> bool:
    """Whether the cache holds all objects of these outputs, with the files in folders."""

    def object_path(md5: str) -> Path:
        return cache / "files" / "md5" / md5[:2] / md5[2:]

    for md5 in outputs.values():
        if not object_path(md5).exists():
            return False
        if md5.endswith(".dir") and not all(
            object_path(entry["md5"]).exists() for entry in files.read_json(object_path(md5))
        ):
            return False
    return True


def _tags(parcel: parcels.Parcel) -> list[str]:
    return ["erasure-audit", f"batch:{parcel.batch}", f"key:{parcel.key[:32]}"]


def _prefect_away() -> tuple[type[Exception], ...]:
    import httpx
    from prefect.exceptions import PrefectException

    return (httpx.HTTPError, PrefectException)


def _mode() -> Mode:
    mode = os.environ.get(MODE) or "auto"
    if mode not in ("auto", "here", "pool"):
        raise SettingsError(f"{MODE}: got {mode!r}, expected auto, here or pool")
    return mode  # type: ignore[return-value]


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"{name}: got {text!r}, expected a time in seconds")
    return seconds
