"""Stages run a user's code, so their environment gives access to nothing that they do not need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.pipeline import stage_runner
from flows.workspace import environment, shell
from tasks.common import files

GIVEN = {
    "ERASURE_AUDIT_DATABASE": "postgresql://audit:database-password@host/register",
    "ERASURE_AUDIT_KEY": "/keys/signing-key.pem",
    "ERASURE_AUDIT_KEY_PEM": "signing-key",
    "ERASURE_AUDIT_KEY_PASSPHRASE": "signing-passphrase",
    "ERASURE_AUDIT_TOKENS": "server-tokens",
    "ERASURE_AUDIT_SIGNING_CLIENTS": "signing-clients",
    "ERASURE_AUDIT_NOTIFY": "mailto://user:notify-password@host",
    "ERASURE_AUDIT_PSEUDONYM_KEY": "pseudonym-key-" + "k" * 32,
    "AWS_ACCESS_KEY_ID": "cloud-id",
    "AWS_SECRET_ACCESS_KEY": "cloud-key",
    "AZURE_STORAGE_CONNECTION_STRING": "cloud-connection",
    "GOOGLE_APPLICATION_CREDENTIALS": "/keys/cloud.json",
    "PREFECT_API_AUTH_STRING": "admin:prefect-password",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql://prefect-database",
    "PGPASSWORD": "server-password",
    "MY_SERVICE_TOKEN": "own-token",
}
PIPELINE = """
stages:
  plain:
    cmd: python show.py plain.json
    outs: [plain.json]
  needy:
    cmd: python show.py needy.json
    outs: [needy.json]
    meta: {secrets: [ERASURE_AUDIT_PSEUDONYM_KEY]}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shell.git(tmp_path, "init", "--quiet")
    shell.dvc(tmp_path, "init", "--quiet")
    files.write_text(tmp_path / "dvc.yaml", PIPELINE)
    files.write_text(
        tmp_path / "show.py",
        "import json, os, sys\njson.dump(dict(os.environ), open(sys.argv[1], 'w'))\n",
    )
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return tmp_path


def seen(home: Path, stage: str) -> dict[str, str]:
    stage_runner.Runner(home, 1).run(stage)
    printed: dict[str, str] = json.loads((home / f"{stage}.json").read_text())
    return printed


def test_a_stage_sees_no_secret_and_everything_else(home: Path) -> None:
    printed = seen(home, "plain")
    assert printed.keys().isdisjoint(GIVEN)
    assert not any(secret in text for secret in GIVEN.values() for text in printed.values())
    assert printed["CUDA_VISIBLE_DEVICES"] == "0"
    assert printed["DVC_NO_ANALYTICS"] == "1"


def test_a_stage_that_declares_a_secret_gets_that_one_alone(home: Path) -> None:
    printed = seen(home, "needy")
    declared = "ERASURE_AUDIT_PSEUDONYM_KEY"
    assert printed[declared] == GIVEN[declared]
    assert printed.keys().isdisjoint(set(GIVEN) - {declared})


def test_git_and_dvc_keep_the_credentials_of_remotes_and_none_of_this_tool(home: Path) -> None:
    given = environment.child(home)
    assert given["AWS_SECRET_ACCESS_KEY"] == GIVEN["AWS_SECRET_ACCESS_KEY"]
    assert given.keys().isdisjoint(environment.SECRET)
    assert set(environment.SECRET) >= {name for name in GIVEN if name.startswith("ERASURE_AUDIT_")}
