"""Keys of the service's callers: who they are, what they may do, which datasets they see.

A SQLite file `<home>/keys.db`, readable by this user alone. Of a key only its HMAC-SHA256 is there,
under a secret in `<home>/keys.secret`: who reads a copy of the file learns no key and can make
none. A key is `tm_<id>_<32 random bytes>`.
"""

import base64
import hashlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from tasks.core.errors import AccessError
from tasks.edges.files import write_private_file
from tasks.edges.settings import read_settings

Scope = Literal["read", "predict", "write", "operate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALL = "*"  # as a dataset: each of them
_PREFIX = "tm"
_TABLE = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    scopes TEXT NOT NULL,    -- names, separated by spaces, as the datasets
    datasets TEXT NOT NULL,
    digest TEXT NOT NULL,
    created_at TEXT NOT NULL,
    revoked_at TEXT
);
CREATE TABLE IF NOT EXISTS webhook_secrets (
    tenant TEXT PRIMARY KEY, secret TEXT NOT NULL, created_at TEXT NOT NULL
);
"""


class Principal(NamedTuple):
    """Who calls.

    name: of the key, or the subject of a token.
    tenant: whose it is.
    datasets: that it sees; ALL is each of them.
    """

    name: str
    tenant: str
    scopes: frozenset[str]
    datasets: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether it has *scope*; `admin` has all."""
        return bool(self.scopes & {scope, "admin"})

    def sees(self, dataset: str) -> bool:
        """Whether *dataset* is one of its own."""
        return bool(self.datasets & {dataset, ALL})


class ApiKey(NamedTuple):
    """A key without its secret. revoked_at: None while it is valid."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    datasets: tuple[str, ...]
    created_at: str
    revoked_at: str | None


def get_keys_path() -> Path:
    """The file of the keys."""
    return read_settings().home / "keys.db"


def create_key(name: str, tenant: str, scopes: Sequence[str], datasets: Sequence[str]) -> str:
    """A new key, which is nowhere kept: only its HMAC is.

    Raises AccessError for an unknown scope, or when there is none, or no dataset.
    """
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise AccessError(f"There is no scope {unknown[0]!r}. Scopes are {', '.join(SCOPES)}.")
    if not scopes or not datasets:
        raise AccessError(
            f"The key {name!r} has no {'dataset' if scopes else 'scope'}, so it could do nothing. Give"
            " `--scope predict` and `--dataset NAME` (`*`: all)."
        )
    identity, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    key = f"{_PREFIX}_{identity}_{secret}"
    row = (identity, name, tenant, " ".join(sorted(set(scopes))), " ".join(sorted(set(datasets))))
    with _open() as connection, connection:
        connection.execute(
            "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", (*row, _compute_digest(key), _format_now())
        )
    return key


def list_keys() -> list[ApiKey]:
    """All keys, the oldest first."""
    if not get_keys_path().exists():
        return []
    columns = ", ".join(ApiKey._fields)
    with _open() as connection:
        rows = connection.execute(f"SELECT {columns} FROM keys ORDER BY created_at, id").fetchall()  # noqa: S608
    return [
        ApiKey(identity, name, tenant, tuple(scopes.split()), tuple(datasets.split()), created_at, revoked_at)
        for identity, name, tenant, scopes, datasets, created_at, revoked_at in rows
    ]


def revoke_key(identity: str) -> ApiKey:
    """Make the key *identity* invalid. Raises AccessError when there is none."""
    known = {key.id: key for key in list_keys()}
    if identity not in known:
        raise AccessError(f"There is no key {identity!r}. `tidemill keys list` shows their ids.")
    with _open() as connection, connection:
        connection.execute(
            "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (_format_now(), identity)
        )
    return next(key for key in list_keys() if key.id == identity)


def make_webhook_secret(tenant: str) -> str:
    """A new secret that signs the webhooks of *tenant*, in place of the one before.

    It is kept as it is, since a signature needs it; the file is readable by this user alone.
    """
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    with _open() as connection, connection:
        connection.execute(
            "INSERT OR REPLACE INTO webhook_secrets VALUES (?, ?, ?)", (tenant, secret, _format_now())
        )
    return secret


def find_webhook_secret(tenant: str) -> str | None:
    """The secret of *tenant*; None when none was made."""
    if not get_keys_path().exists():
        return None
    with _open() as connection:
        row = connection.execute("SELECT secret FROM webhook_secrets WHERE tenant = ?", [tenant]).fetchone()
    return None if row is None else str(row[0])


def find_principal(key: str) -> Principal | None:
    """Whose *key* is; None for an unknown or a revoked one.

    Digests are compared in constant time.
    """
    parts = key.split("_", 2)
    if len(parts) != 3 or parts[0] != _PREFIX or not get_keys_path().exists():
        return None
    with _open() as connection:
        row = connection.execute(
            "SELECT digest, name, tenant, scopes, datasets FROM keys WHERE id = ? AND revoked_at IS NULL",
            [parts[1]],
        ).fetchone()
    if row is None or not hmac.compare_digest(row[0], _compute_digest(key)):
        return None
    return Principal(row[1], row[2], frozenset(row[3].split()), frozenset(row[4].split()))


def read_own_key() -> str:
    """The key of Tidemill's own programs on this machine, made at the first call."""
    path = read_settings().home / "keys.own"
    if not path.exists():
        write_private_file(path, create_key("tidemill", "operators", ["admin"], [ALL]))
    return path.read_text().strip()


def _compute_digest(key: str) -> str:
    path = read_settings().home / "keys.secret"
    if not path.exists():
        write_private_file(path, secrets.token_hex(32))
    return hmac.new(path.read_bytes().strip(), key.encode(), hashlib.sha256).hexdigest()


@contextmanager
def _open() -> Iterator[sqlite3.Connection]:
    path = get_keys_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as connection:
            connection.executescript(_TABLE)
            yield connection
    except sqlite3.Error as error:
        raise AccessError(
            f"The keys in {path} cannot be read or written: {error}. Correct its permissions or its disk;"
            " until then no key is valid."
        ) from error


def _format_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
