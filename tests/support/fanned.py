"""Jobs for tests of the fan-out: functions of a module, so that a worker elsewhere finds them."""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Job(NamedTuple):
    """As a job of train: a tuple, which a cluster must pass on as it is."""

    number: int


class Marks(NamedTuple):
    folder: str
    weights: np.ndarray


def scaled(shared, job):
    """A sum that depends on what is shared and on the job."""
    return float((shared["weights"] * job).sum())


def where_and_whether_writeable(shared, job):
    if job:
        time.sleep(0.3)  # so that no worker takes all jobs
    return os.getpid(), shared["weights"].flags.writeable


def slowly(shared, job):
    """Leaves a mark that it began, then takes its time."""
    Path(shared, f"{job}.{os.getpid()}").touch()
    time.sleep(0.4)
    return job * job


def on_a_cluster(shared, job):
    return slowly(shared.folder, job.number) + float(shared.weights.sum())


def killed_at_three(shared, job):
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def failing(shared, job):
    raise ZeroDivisionError(f"job {job}")
