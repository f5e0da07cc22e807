"""A forecaster whose first fit in a worker's process ends that process as kill -9 does; the mark
in MORTAL_MARK says that it has happened."""

import multiprocessing
import os
import signal
from pathlib import Path

from tasks.forecasters.models.linear.ridge import Ridge


class Mortal(Ridge):
    releases_gil = False

    def learn(self, x, z):
        mark = Path(os.environ["MORTAL_MARK"])
        if multiprocessing.parent_process() is not None and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().learn(x, z)
