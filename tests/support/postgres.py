"""A real PostgreSQL of a test's own: a cluster in a folder, reached over a unix socket there."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

INSTALLED = Path("/usr/lib/postgresql")  # Debian keeps its programs off the path, one folder for each version


class Postgres(NamedTuple):
    """url: of an empty database. user: whom the programs run as."""

    folder: Path
    user: str | None

    @property
    def url(self):
        return f"postgresql+psycopg://tidemill@/postgres?host={self.folder}"

    def start(self):
        options = (
            f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off -c"
            " shared_buffers=16MB"
        )
        _run(
            self.user,
            "pg_ctl",
            "-D",
            self.folder / "data",
            "-l",
            self.folder / "log",
            "-o",
            options,
            "-w",
            "start",
        )

    def stop(self):
        _run(self.user, "pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")


@contextmanager
def postgres():
    """A running server; it and its folder are gone afterwards.

    The server refuses to run as root: then it runs as the user `postgres` that its package makes.
    Nothing is synced, since no machine is cut off here.
    """
    # (a socket's path has at most 107 characters, and that user must reach it)
    folder = Path(tempfile.mkdtemp(prefix="tidemill-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    try:
        _run(
            user,
            "initdb",
            "-D",
            folder / "data",
            "-U",
            "tidemill",
            "-A",
            "trust",
            "--no-sync",
            "--no-locale",
            "-E",
            "UTF8",
        )
        server = Postgres(folder, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _run(user, program, *arguments):
    found = shutil.which(program) or max(
        INSTALLED.glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]), default=None
    )
    assert found, (
        f"no {program} on the path or in {INSTALLED}: install PostgreSQL (CONTRIBUTING.md says what the tests"
        " need)"
    )
    prefix = ["runuser", "-u", user, "--"] if user else []
    done = subprocess.run(
        [*prefix, found, *map(str, arguments)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
