"""Open alarms as readers see them; tasks.alerts.store writes them, in `<home>/alerts/alerts.db`."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tasks.core.errors import SettingsError
from tasks.core.reports.alerts import OpenAlarm
from tasks.edges.settings import read_settings

WAIT_S = 2.0  # for a process that writes


def get_alerts_path() -> Path:
    """Where open alarms and the outbox are."""
    return read_settings().home / "alerts" / "alerts.db"


def select_open_alarms(connection: sqlite3.Connection) -> list[OpenAlarm]:
    """Open alarms, by key."""
    rows = connection.execute("SELECT alarm FROM alarms WHERE closed_at IS NULL ORDER BY key")
    return [OpenAlarm.model_validate_json(text) for (text,) in rows.fetchall()]


def read_open_alarms() -> list[OpenAlarm]:
    """Open alarms, by key; none where no loop has looked for alarms yet.

    Raises SettingsError when the file cannot be read.
    """
    path = get_alerts_path()
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_S)) as connection:
            return select_open_alarms(connection)
    except sqlite3.Error as error:
        raise SettingsError(f"{path} cannot be read: {error}. `tidemill doctor` looks into it.") from error
