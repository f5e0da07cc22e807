"""A net's fit that was killed goes on, and a fit goes on from an earlier one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from nets import NETS, fitted, pairs, schema_of

from tasks.core.errors import ForecasterError
from tasks.edges.settings import ROOT, read_settings
from tasks.forecasters.training import checkpoints
from tasks.forecasters.training.learner import Learner

KILLED = """
import sys, time
sys.path[:0] = ["tests/support", "tests/forecasters"]
from tasks.forecasters.training.learner import Learner
slow = Learner.on_train_epoch_start
Learner.on_train_epoch_start = lambda self: (time.sleep(0.2 if self.current_epoch < 4 else 60), slow(self))
from nets import fitted
from test_nets_resumed import LONG
fitted(**LONG)
"""
LONG = {"epochs": 8, "checkpoint_every_epochs": 1, "dropout_frac": 0.1, "patience_epochs": 5}


def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=ROOT, env={**os.environ, "TIDEMILL_HOME": str(tmp_path)}
    )
    wait_for(
        lambda: (
            (kept := list(tmp_path.glob("checkpoints/*/last.ckpt")))
            and torch.load(kept[0], weights_only=True)["epoch"] == 3
        ),
        process,
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs = note_epochs(monkeypatch)
    monkeypatch.setattr(
        checkpoints, "read_settings", lambda: read_settings().model_copy(update={"home": tmp_path})
    )
    went_on = fitted(**LONG)
    assert epochs == [4, 5, 6, 7]
    undisturbed = fitted(**LONG)
    assert epochs[4:] == list(range(8))
    assert saved(went_on, tmp_path / "a") == saved(undisturbed, tmp_path / "b")
    assert (
        saved(fitted(**{**LONG, "checkpoint_every_epochs": None}), tmp_path / "c")["learned.npz"]
        == saved(went_on, tmp_path / "d")["learned.npz"]
    )
    assert not list((tmp_path / "checkpoints").iterdir())


SHARED = """
import sys
sys.path[:0] = ["tests/support", "tests/forecasters"]
from nets import fitted
if __name__ == "__main__":
    fitted(epochs=1_000_000, strategy="ddp", devices=2)
"""


@pytest.mark.chaos
def test_processes_that_share_a_fit_end_with_the_one_that_started_them(tmp_path):
    """Three imports of Lightning, so it is long."""
    (tmp_path / "shared.py").write_text(SHARED)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "shared.py"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    family = psutil.Process(process.pid)
    wait_for(lambda: sum(len(server.children()) for server in family.children()) == 2, process, at_most_s=400)
    others = family.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(others, timeout=10)
    assert not alive


def note_epochs(monkeypatch):
    """The numbers of the epochs that are run from now on."""
    epochs, start = [], Learner.on_train_epoch_start

    def noted(self):
        epochs.append(self.current_epoch)
        start(self)

    monkeypatch.setattr(Learner, "on_train_epoch_start", noted)
    return epochs


def wait_for(reached, process, at_most_s=120):
    until = time.monotonic() + at_most_s
    while not reached():
        assert process.poll() is None, "the fit ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.02)


def saved(fit, folder: Path):
    folder.mkdir()
    fit.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("net", NETS)
def test_a_fit_goes_on_from_the_weights_of_an_earlier_one(net):
    x, z = pairs(500)
    champion = fitted(net, x[:300], z[:300], epochs=12)
    same = fitted(net, x[:300], z[:300], champion, warm_epochs=1, learning_rate=1e-9)
    np.testing.assert_allclose(same.predict(x), champion.predict(x), atol=1e-4)
    error = {
        name: np.square(fit.predict(x[400:]) - z[400:]).mean()
        for name, fit in {
            "warm": fitted(net, x[:400], z[:400], champion, warm_epochs=1),
            "cold": fitted(net, x[:400], z[:400], epochs=1),
        }.items()
    }
    assert error["warm"] < error["cold"]


def test_weights_move_to_a_dataset_of_another_level_and_size():
    """Fifty rows teach a net little; with what it learned on another dataset they are enough."""
    teacher = fitted("lstm", *pairs(1000), epochs=12)
    x, z = pairs(1000, level=1e4, unit=200, seed=5)
    moved, alone = (fitted("lstm", x[:50], z[:50], start, epochs=20) for start in (teacher, None))
    naive = np.square(x[500:, :1] - z[500:]).mean()
    error, error_alone = (np.square(fit.predict(x[500:]) - z[500:]).mean() for fit in (moved, alone))
    assert error < 0.3 * naive
    assert error < 0.8 * error_alone


@pytest.mark.parametrize(
    ("net", "schema", "params", "said"),
    [
        ("lstm", schema_of(), {}, "it is a Gru"),
        ("gru", schema_of(), {"hidden_size": 8}, "`hidden_size` is 32 there and 8 here"),
        ("gru", schema_of(lags=5), {}, r"its columns differ \(\['z_lag_5'\]\)"),
        ("gru", schema_of(names=("open_value",)), {}, r"\['close_value', 'open_value'\]"),
        ("gru", schema_of(steps=2), {}, "`horizon_steps` is 3 there and 2 here"),
    ],
)
def test_other_layers_or_columns_are_refused_with_what_differs(net, schema, params, said):
    x, z = pairs(60)
    with pytest.raises(ForecasterError, match=rf"cannot continue that fit: .*{said}"):
        fitted(
            net,
            x[:, : len(schema.columns)],
            z[:, : schema.horizon_steps],
            fitted(x=x, z=z, epochs=1),
            schema=schema,
            **params,
        )


def test_a_disturbed_fit_in_mixed_precision_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    mixed, start = {**LONG, "precision": "bf16-mixed"}, Learner.on_train_epoch_start
    monkeypatch.setattr(
        checkpoints, "read_settings", lambda: read_settings().model_copy(update={"home": tmp_path})
    )

    def disturbed(self):
        if self.current_epoch == 4:
            raise RuntimeError("disturbed")
        start(self)

    with monkeypatch.context() as while_disturbed:
        while_disturbed.setattr(Learner, "on_train_epoch_start", disturbed)
        with pytest.raises(RuntimeError, match="disturbed"):
            fitted(**mixed)
    epochs = note_epochs(monkeypatch)
    went_on = fitted(**mixed)
    assert epochs == [4, 5, 6, 7]
    assert saved(went_on, tmp_path / "a") == saved(fitted(**mixed), tmp_path / "b")
