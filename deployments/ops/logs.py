"""`tidemill logs`: the log of `up`, by part, and those of the servers that `run` starts."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from deployments.ops.prefect_server import get_log_path
from tasks.core.errors import SettingsError

_UP = "up"


class PartLog(NamedTuple):
    """Lines of a log. part: whose lines they are; None: all. path: the file."""

    path: Path
    part: str | None
    lines: list[str]


def read_log(part: str | None, n_lines: int) -> PartLog:
    """The newest *n_lines* of *part*: in the log of `up`, else in the file that `run` left.

    Raises SettingsError with the parts that have lines when there are none of *part*.
    """
    path = get_log_path(_UP)
    if lines := _read_newest(path, part, n_lines):
        return PartLog(path, part, lines)
    names = {log.stem: log for log in sorted(path.parent.glob("*.log")) if log.stem != _UP}
    if part in names:
        return PartLog(names[part], None, _read_newest(names[part], None, n_lines))
    parts = sorted({*names, *_list_parts(path)})
    if parts:
        raise SettingsError(f"{path.parent} has no line of {part or _UP!r}. There are: {', '.join(parts)}.")
    raise SettingsError(f"{path.parent} has no log yet. `tidemill run` and `tidemill up` write there.")


def follow_log(log: PartLog, wait: Callable[[], None]) -> Iterator[str]:
    """Lines that are added to *log*, for ever; *wait* is called when there is none.

    The next file is read when the log is rotated.
    """
    position = log.path.stat().st_size
    while True:
        if log.path.exists() and (size := log.path.stat().st_size) != position:
            with log.path.open(errors="replace") as handle:
                handle.seek(position if size > position else 0)
                text = handle.read()
                whole = text[: text.rfind("\n") + 1]
                position = (position if size > position else 0) + len(whole.encode())
            yield from (line for line in whole.splitlines() if _is_of(line, log.part))
        wait()


def _read_newest(path: Path, part: str | None, n_lines: int) -> list[str]:
    lines: deque[str] = deque(maxlen=n_lines)
    for file in (path.with_name(f"{path.name}.1"), path):
        if file.exists():
            with file.open(errors="replace") as handle:
                lines.extend(line.rstrip("\n") for line in handle if _is_of(line, part))
    return list(lines)


def _is_of(line: str, part: str | None) -> bool:
    """Whether a line `DATE TIME PART | TEXT` is of *part*."""
    return part is None or line.partition(" | ")[0].endswith(f" {part}")


def _list_parts(path: Path) -> set[str]:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return {line.partition(" | ")[0].rpartition(" ")[2] for line in lines if " | " in line}
