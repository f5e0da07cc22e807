"""A small search for tests, also in processes of its own that end in the middle of it."""

import os
import signal
import subprocess
import sys

from panels import feature_table, render_reports, small_dataset

from tasks.edges.settings import ROOT, build_child_environment, read_settings
from tasks.edges.tracking import TrainedModel
from tasks.train.fits import FitContext
from tasks.train.params import TrainParams
from tasks.train.search.params import SearchParams
from tasks.train.search.report import build_mlflow_logger
from tasks.train.search.study import open_study
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

WALK = TrainParams(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=10, min_train_steps=100)
PENALTY = {"penalty": {"float": [1e-4, 10.0], "log": True}}
N_TRIALS = 9
FEW = {"space": PENALTY, "n_trials": N_TRIALS, "inner_cutoffs": 6, "prune": False}


def train_small(model="ridge", table=None, walk=WALK, say=lambda _: None, tell=None, **own):
    data = TrainingData(feature_table() if table is None else table, small_dataset(), 30)
    return render_reports(fit_model(model, data, walk, own, say, on_trial=tell))


def the_study():
    """The one study of this home."""
    (folder,) = (read_settings().home / "search").iterdir()
    return open_study(folder.name, SearchParams.model_validate(FEW))


def judged_and_cut_off():
    """Trials of the one study that have a value, and those that a kill ended."""
    trials = the_study().get_trials()
    return [t.params["penalty"] for t in trials if t.state.name == "COMPLETE"], [
        t for t in trials if t.state.name == "FAIL"
    ]


def train_until_fit(number, workers, stop):
    """In a process of its own: a training whose *number*-th inner fit does what *stop* says and
    never comes back."""
    learn, made = FitContext.learn, []

    def last(self, *arguments, **named):
        made.append(1)
        if len(made) == number:
            stop()
        return learn(self, *arguments, **named)

    FitContext.learn = last
    train_small(
        search={**FEW, "workers": workers}, tell=build_mlflow_logger(TrainedModel("small", "ridge", "d"))
    )


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still():
    print("standing still", flush=True)
    sys.stdin.read()


def begin(home, number, stop, workers=1, **environment):
    """`train_until_fit` in a process with this home."""
    code = (
        "import sys; sys.path[:0] = ['tests/support', 'tests/train']; import searched;"
        f" searched.train_until_fit({number}, {workers}, searched.{stop.__name__})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=build_child_environment(TIDEMILL_HOME=str(home), **environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_in_fit(home, number, workers=1, **environment):
    process = begin(home, number, die, workers, **environment)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
