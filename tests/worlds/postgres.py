"""A temporary PostgreSQL server for tests, on loopback, fast and without durability."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

REQUIRED = "ERASURE_AUDIT_POSTGRES"
"""With the value `required` a missing server is a failure, and no reason to skip."""


class Server:
    """A running server. Whoever stops it starts it again."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder, self._binaries = folder, binaries
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://auditor:secret@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        self._run(
            "initdb",
            "--auth=trust",
            "--username=auditor",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )

    def start(self) -> None:
        settings = (
            "-c listen_addresses=127.0.0.1 -c fsync=off -c synchronous_commit=off -c "
            "max_connections=60"
        )
        folders = f"-c unix_socket_directories={self.folder}"
        self._run(
            "pg_ctl",
            "-w",
            "-l",
            str(self.folder / "log"),
            "-o",
            f"-p {self.port} {settings} {folders}",
            "start",
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def new(self) -> str:
        """The address of what is as good as a new, empty database: a schema, which is made in no
        time."""
        name = f"register_{uuid.uuid4().hex}"
        engine = sa.create_engine(
            self.url().replace("postgresql", "postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        engine.dispose()
        return f"{self.url()}?options=-csearch_path%3D{name}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self.folder / "data"), *arguments]
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            command = ["runuser", "-u", "postgres", "--", *command]
        # pg_ctl's child, the server, would hold a pipe open
        quiet = None if program == "initdb" else subprocess.DEVNULL
        ended = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=quiet or subprocess.PIPE,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(
                f"{program}: exit code {ended.returncode} {(ended.stderr or b'')[-500:].decode()}"
            )


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server of its own; the test is skipped where PostgreSQL is not installed and not
    required."""
    result = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    installed = result[-1] if result else Path(shutil.which("initdb") or "")
    if not installed.name:
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(
                "PostgreSQL is required, and its initdb is nowhere; install the package postgresql"
            )
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = Server(folder, installed.resolve().parent)
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server.make()
        server.start()
        yield server
    finally:
        with contextlib.suppress(RuntimeError):
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
