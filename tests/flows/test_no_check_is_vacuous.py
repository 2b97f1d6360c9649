"""One table of the product's checks: each fails when its evidence is gone.

A row plants a loss in a sound world and asks the check. Its answer has to be false, or an error
that says what is missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.pipeline import close_batch, provenance, reproduce
from flows.register import anchors
from flows.register.register import Intake, Register
from flows.reports import signature_checks, signing
from flows.workspace import shell
from tasks.common import files, settings
from tasks.common.errors import AuditError
from tasks.signatures.keys import make_key, public_pem, read_key
from tasks.signatures.statement import seal
from tasks.training import release_lineage
from tests.worlds import dummy, signed_off

KEY = read_key(make_key(development=False))
REQUEST = dummy.REQUESTS[0]
SIGNED = Path("signed") / "demo" / REQUEST


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed batch with one signed report and a register whose end git keeps."""
    home = dummy.make(tmp_path_factory.mktemp("vacuous") / "workspace")
    provenance.write(home, settings.Settings())
    shell.dvc(home, "repro", "--quiet")
    files.write_json(home / SIGNED / "evidence.json", {"verdict": "pass"})
    names = [SIGNED / "evidence.json", Path("dvc.lock")]
    subjects = {name.as_posix(): files.sha256(home / name) for name in names}
    files.write_bytes(home / SIGNED / signing.STATEMENT, seal(subjects, {}, KEY))
    files.write_bytes(home / "trusted-keys" / "demo.pem", public_pem(KEY))
    register = Register(home)
    who = signed_off.identity_of(signed_off.PASS)
    wanted = Intake(signed_off.PASS, "gdpr", "2026-11-20T09:00:00Z", (who,))
    register.receive(wanted, "intake", "test")
    register.file_head(home / anchors.HEADS / "demo.json")
    register.close()
    close_batch.close(home, "demo")
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    return dummy.copy(sound, tmp_path / "workspace")


def integrity(home: Path) -> bool:
    return bool(reproduce.reproduce(home, "demo", "integrity"))


def rederive(home: Path) -> bool:
    return bool(reproduce.reproduce(home, "demo", "rederive"))


def reexecute(home: Path) -> bool:
    return bool(reproduce.reproduce(home, "demo", "reexecute"))


def verify_report(home: Path) -> bool:
    return bool(signature_checks.verify(home / SIGNED, (KEY.signer,)))


def chain(home: Path) -> bool:
    register = Register(home)
    try:
        return bool(register.check_chain(anchors.heads(home)).seq)
    finally:
        register.close()


def can_be_reproduced_elsewhere(home: Path) -> bool:
    return close_batch.unpushed(home) is None


def references(home: Path) -> bool:
    import numpy as np
    import pandas as pd

    none = pd.DataFrame({"sha256": [], "label": []})
    folder = home / "artifacts" / "train"
    return bool(release_lineage.references(folder, none, np.array([], bool), settings.Settings()))


def readiness_of_the_pool(home: Path) -> bool:
    from flows.pools import readiness

    return bool(readiness.assess(home).people)


def nothing_came_back(home: Path) -> bool:
    """Whether the look for what was erased says that all is well."""
    from flows.erasure import comebacks

    return not comebacks.look(home, []).lines


def lose(*paths: str) -> Callable[[Path], None]:
    """Remove files or folders of the workspace."""

    def plant(home: Path) -> None:
        for path in paths:
            target = home / path
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return plant


def lose_object(path: str) -> Callable[[Path], None]:
    """Remove what DVC's cache keeps of a file."""

    def plant(home: Path) -> None:
        oid = hashlib.md5((home / path).read_bytes()).hexdigest()
        (home / ".dvc/cache/files/md5" / oid[:2] / oid[2:]).unlink()

    return plant


def lose_at_the_tag(*paths: str) -> Callable[[Path], None]:
    """Remove what git keeps, and move the tag there."""

    def plant(home: Path) -> None:
        lose(*paths)(home)
        shell.git(home, "commit", "--quiet", "--all", "-m", "nothing to see here")
        shell.git(home, "tag", "--force", "audit/demo")

    return plant


def forge_receipts(home: Path) -> None:
    """Lose a model, and excuse it by receipts that no erasure made."""
    lose_object("artifacts/train/0/model.txt")(home)
    content = {"stores": [], "not_kept": {"audit/demo": ["artifacts/train/0"]}}
    files.write_json(home / "ledger" / "erasures" / "demo.json", content)


def lose_the_list_of_what_was_erased(home: Path) -> None:
    """An erasure is on record, and the list of what it erased is gone."""
    from flows.erasure import comebacks

    listed = comebacks.write_hashes(home, "demo", ["0" * 32])
    shell.git(home, "add", "--force", str(listed))
    shell.git(home, "commit", "--quiet", "-m", "erasure")
    shell.git(home, "tag", "erased/demo")
    assert nothing_came_back(home)
    listed.unlink()


def forget_the_key(home: Path) -> None:
    """Seal the statement anew, by a key that nobody trusts."""
    subjects = json.loads('{"signed/demo/x/evidence.json": "00"}')
    other = read_key(make_key(development=False))
    files.write_bytes(home / SIGNED / signing.STATEMENT, seal(subjects, {}, other))


TABLE: list[tuple[str, Callable[[Path], bool], Callable[[Path], None]]] = [
    ("reproduce, all of the cache gone", integrity, lose(".dvc/cache")),
    ("reproduce, one model gone", integrity, lose_object("artifacts/train/0/model.txt")),
    ("reproduce, scores gone", integrity, lose_object("artifacts/score/scores.txt")),
    ("reproduce, forged receipts", integrity, forge_receipts),
    ("reproduce, reports gone at the tag", integrity, lose_at_the_tag("reports/demo")),
    ("reproduce, requests gone at the tag", integrity, lose_at_the_tag("requests/demo.json")),
    (
        "reproduce, statement gone at the tag",
        integrity,
        lose_at_the_tag(f"{SIGNED.as_posix()}/{signing.STATEMENT}"),
    ),
    ("reproduce, dvc.lock gone at the tag", integrity, lose_at_the_tag("dvc.lock")),
    ("rederive without scores", rederive, lose_object("artifacts/score/scores.txt")),
    ("reexecute without records", reexecute, lose(".dvc/cache", "data")),
    ("verify-report without report", verify_report, lose(f"{SIGNED.as_posix()}/evidence.json")),
    (
        "verify-report without statement",
        verify_report,
        lose(f"{SIGNED.as_posix()}/{signing.STATEMENT}"),
    ),
    ("verify-report by an unknown key", verify_report, forget_the_key),
    ("requests check without register", chain, lose(".register")),
    ("run --commit without a remote", can_be_reproduced_elsewhere, lambda home: None),
    ("references without lineage", references, lambda home: None),
    ("readiness without a pool", readiness_of_the_pool, lambda home: None),
    (
        "what comes back, without the list of what was erased",
        nothing_came_back,
        lose_the_list_of_what_was_erased,
    ),
]


@pytest.mark.parametrize(("check", "plant"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_a_check_whose_evidence_is_gone_does_not_hold(
    home: Path, check: Callable[[Path], bool], plant: Callable[[Path], None]
) -> None:
    plant(home)
    try:
        held = check(home)
    except AuditError:
        held = False
    assert not held


@pytest.mark.parametrize("check", [integrity, rederive, reexecute, chain, verify_report])
def test_the_same_checks_hold_while_the_evidence_is_there(
    home: Path, check: Callable[[Path], bool]
) -> None:
    assert check(home)
