"""A disk that is really full for a process: a small tmpfs, or, where mounting is refused, a
limit on its files."""

import resource
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Disk:
    folder: Path
    is_mounted: bool

    def fill(self, pid: int) -> None:
        """Leave no room for the process *pid* and its children."""
        if not self.is_mounted:
            return self._limit(pid, 1)
        with (self.folder / "filling").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return None

    def free(self, pid: int) -> None:
        if not self.is_mounted:
            return self._limit(pid, resource.RLIM_INFINITY)
        return (self.folder / "filling").unlink()

    def _limit(self, pid: int, n_bytes: int) -> None:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path, size: str = "64m"):
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, is_mounted)
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)
