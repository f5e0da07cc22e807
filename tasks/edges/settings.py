"""The environment, read in one place: where things are, which ports, which addresses.

What changes a result is in params.yaml instead. Variables start with `TIDEMILL_`, for example
`TIDEMILL_HOME`, `TIDEMILL_SERVICE_PORT`. Prefect keeps its own `PREFECT_*` names.
"""

import getpass
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.core.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]

# No library reports its use unless a person asks for it: these are set for every process that we
# start, unless already set.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "BENTOML_DO_NOT_TRACK": "True",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "EVIDENTLY_DISABLE_TELEMETRY": "1",
}


LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """Where things are.

    Every field is an environment variable of the same name in capitals, prefixed with TIDEMILL_.
    """

    model_config = SettingsConfigDict(
        env_prefix="TIDEMILL_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    home: Path = ROOT / ".tidemill"  # what runs leave behind
    mlflow_uri: str = ""  # empty: SQLite in home
    operator: str = ""  # who promotes, approves and takes back; empty: the operating system's user
    host: str = "127.0.0.1"
    prefect_port: int = 4200
    # empty: a server of our own on prefect_port
    prefect_api_url: str = Field(default="", validation_alias="PREFECT_API_URL")
    mlflow_port: int = 5000
    service_port: int = 3000
    # `on`: the service answers keys (`tidemill keys`) and tokens alone. `off`: every program on its
    # own machine, and no other machine
    auth: Literal["on", "off"] = "off"
    hosts: str = ""  # names under which the service is reached, separated by commas; others are refused
    rate_limit: str = "6000/minute"  # of each caller
    # Where the callers' rates are counted; of several services redis://...
    rate_limit_storage: str = "memory://"
    # A public key as PEM or JWK: tokens that it signs are accepted, of this algorithm, issuer and
    # audience alone
    jwt_key: Path | None = None
    jwt_algorithm: Literal["RS256", "PS256", "ES256", "EdDSA"] = "RS256"
    jwt_issuer: str = ""
    jwt_audience: str = ""
    # The service serves the current dataset of the checkout in this folder; `tidemill up` sets it
    checkout: Path | None = None
    release: Path | None = None  # the service loads this release instead of the champion
    # Datasets whose champions the service serves, separated by commas; empty: the checkout's
    # current one
    datasets: str = ""
    # Private key that signs promoted releases (PEM, ed25519); empty: signing.key in home, made at
    # the first promotion
    signing_key: Path | None = None
    # Public keys whose signatures are accepted, one a line in hex; empty: the signing key's own
    trusted_keys: Path | None = None
    # HAProxy's admin socket, for `tidemill proxy`; empty: proxy.sock in home
    proxy_socket: Path | None = None
    keep_cache_mb: int = 5000  # beyond it, what no current artifact needs is removed from DVC's cache
    # Newest releases of a dataset that are kept in home; champion, former champion and what is used
    # always are
    keep_releases: int = 5
    # What commands print on stderr: `debug` also what each stage prints, `warning` and `error` no
    # progress
    log_level: LogLevel = "info"
    jobs: int = 2  # models trained at the same time; more than 4 fail at DVC's repository lock
    # Fits of one model made at the same time; 0: as many as there are cores, shared among the jobs
    # of a flow
    workers: int = Field(default=0, ge=0)
    dask_address: str = ""  # fits are made by the Dask cluster whose scheduler is there, tcp://host:port
    # Database that keeps the trials of a search, postgresql+psycopg://...; empty: a journal file in
    # home
    search_storage: str = ""
    kafka: str = ""  # brokers, host:port,host:port; empty: the one of `tidemill up --kafka` on kafka_port
    kafka_port: int = 9092
    # More settings of the Kafka client as JSON: security.protocol, sasl.username, ...
    kafka_options: dict[str, str] = Field(default_factory=dict)
    feed_member: str = "0"  # of several feed processes on one topic each has its own
    feed_database: str = ""  # of a feed that polls a table, postgresql+psycopg://USER:PASSWORD@HOST/NAME
    feed_exchange: dict[str, Any] = Field(default_factory=dict)  # options of ccxt as JSON: apiKey, urls, ...
    schema_registry: str = ""  # of a feed in Avro or Protobuf, http://USER:PASSWORD@HOST:8081
    feed_port: int = 9108  # the feed's metrics
    # Addresses that alerts are sent to, as apprise has them, separated by spaces: secrets
    alerts: SecretStr = SecretStr("")
    keep_answers_days: int = Field(default=90, ge=1)  # then the month of an answer is moved or deleted
    # What happens to a month of answers that is older: `move` into a parquet file, or `delete`
    old_answers: Literal["move", "delete"] = "move"
    keep_rows_mb: int = Field(default=1000, ge=0)  # earlier rows that answers were made from, of each dataset
    # Jobs of the service: how many of a tenant may wait or run, how many run at the same time, what
    # each may use, and how long it is kept after its end
    job_queue: int = Field(default=20, ge=1)
    job_processes: int = Field(default=1, ge=1)
    job_memory_mb: int = Field(default=4000, ge=1)
    job_limit_s: float = Field(default=3600.0, gt=0)
    keep_jobs_days: float = Field(default=7.0, gt=0)
    # `allow`: webhooks may have http and addresses of this machine and of private networks
    webhook_private: Literal["deny", "allow"] = "deny"
    keep_searches_mb: int = 50  # folders of earlier searches, the least recently used removed first
    keep_fits_mb: int = 500  # fits of earlier trainings that are kept for reuse; 0: none

    @property
    def n_workers(self) -> int:
        """How many fits may be made at the same time."""
        return self.workers or os.cpu_count() or 1

    @property
    def served_datasets(self) -> tuple[str, ...]:
        """The names in `datasets`, each once."""
        names = (name.strip() for name in self.datasets.split(","))
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def kafka_address(self) -> str:
        """Brokers of the feed."""
        return self.kafka or f"{self.host}:{self.kafka_port}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: the setting, or SQLite in home."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"


def get_operator() -> str:
    """Who acts in this process: the setting, else the user of the operating system."""
    if operator := read_settings().operator:
        return operator
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return f"uid {os.getuid()}"


@cache
def read_settings() -> Settings:
    """The settings of this process, read once; the first call switches telemetry off."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    try:
        return Settings()
    except ValidationError as error:
        facts = error.errors()[0]
        name = f"TIDEMILL_{'.'.join(map(str, facts['loc'])).upper()}"
        raise SettingsError(
            f"{name} is {facts.get('input')!r:.60}: {facts['msg']}. Correct the variable, or unset it."
        ) from error


def apply_log_level(level: LogLevel) -> None:
    """Set the level for this process and those that it starts."""
    os.environ["TIDEMILL_LOG_LEVEL"] = level
    read_settings.cache_clear()


def apply_no_color() -> None:
    """Have this process and those that it starts print without colors, as NO_COLOR does."""
    os.environ["NO_COLOR"] = "1"


def check_home_is_writable() -> None:
    """Raise SettingsError with the reason when nothing can be written into TIDEMILL_HOME."""
    home = read_settings().home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise SettingsError(
            f"TIDEMILL_HOME is {home}, where nothing can be written ({error.strerror}). Correct its"
            " permissions or its disk, or set TIDEMILL_HOME to another folder."
        ) from error


def resolve_placeholders(text: str) -> str:
    """*text* with each `${NAME}` replaced by the environment's value.

    Raises SettingsError when there is none.
    """

    def get_value(name: re.Match[str]) -> str:
        if (text := os.environ.get(name[1])) is None:
            raise SettingsError(
                f"params.yaml names ${{{name[1]}}}, and the environment has no {name[1]}. Set it where the"
                " feed is started."
            )
        return text

    return re.sub(r"\$\{(\w+)\}", get_value, text)


def build_child_environment(**extra: str) -> dict[str, str]:
    """Environment for a process we start: this one's, telemetry off, *extra* on top."""
    return {**os.environ, **{k: os.environ.get(k, v) for k, v in TELEMETRY_OFF.items()}, **extra}


def apply_mlflow_environment(artifacts: Path) -> None:
    """Set what MLflow's client reads from the environment, unless already set."""
    # Else its SQLite store makes ./mlruns in the current folder
    os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", str(artifacts))
    # Instead of 7 with growing pauses: what is not delivered waits in the outbox
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def apply_in_memory_metrics() -> None:
    """Keep the metrics of this process in memory; call it before prometheus_client is imported.

    BentoML names a folder in home where they would be mapped files, and a write to one on a full
    disk ends the process (SIGBUS).
    """
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
