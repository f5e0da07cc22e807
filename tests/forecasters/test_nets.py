"""Nets: what training promises beyond the laws of every forecaster."""

import numpy as np
import psutil
import pytest
import torch
from nets import LAGS, NETS, fitted, pairs, schema_of
from panels import small_panel, small_schema

from tasks.core.errors import ForecasterError
from tasks.core.folds import WalkForward
from tasks.forecasters import build_forecaster
from tasks.forecasters.graph import graph_ops
from tasks.forecasters.parts.net import get_net_weights
from tasks.forecasters.parts.net_layers import NetInputs, TrainingHooks, WeightInitializer
from tasks.forecasters.training.early_stopping import EarlyStopping
from tasks.forecasters.training.learner import Learner, build_batch
from tasks.forecasters.training.lightning import get_precision

# inputs


@pytest.mark.parametrize("net", [net for net in NETS if net != "mlp"])
def test_too_short_a_sequence_names_the_lags_to_declare(net):
    with pytest.raises(
        ForecasterError, match=r"has 6 without a gap.*kind: lag, column: z, steps: \[1, ..., 23\].*at most 6"
    ):
        build_forecaster(net, schema_of(), 1, {"sequence_steps": 24})
    with pytest.raises(ForecasterError, match=r"at least 2 steps.*kind: lag, column: z"):
        build_forecaster(net, schema_of(lags=1), 1, {})


def test_a_lag_beyond_a_gap_stands_beside_the_sequence():
    net = build_forecaster("gru", schema_of(lags=3, names=("z_lag_24",)), 1, {})
    assert net.steps == ("z_lag_2", "z_lag_1", "z_last")
    assert build_forecaster("gru", schema_of(), 1, {"sequence_steps": 2}).steps == ("z_lag_1", "z_last")


def test_patches_end_at_the_last_step():
    net = build_forecaster("patch_transformer", schema_of(), 1, {"patch_steps": 3, "stride_steps": 2})
    assert net.patches == [[1, 2, 3], [3, 4, 5]]
    with pytest.raises(ForecasterError, match="at most 6"):
        build_forecaster("patch_transformer", schema_of(), 1, {"patch_steps": 7})


# layers, against torch's own


@pytest.mark.parametrize(("ours", "theirs"), [(graph_ops.gru, torch.nn.GRU), (graph_ops.lstm, torch.nn.LSTM)])
def test_units_are_those_of_torch(ours, theirs):
    torch.manual_seed(1)
    unit, x = theirs(2, 5, batch_first=True), torch.randn(7, 9, 2)
    weights = [p.detach().numpy() for p in unit.parameters()]
    np.testing.assert_allclose(ours(x.numpy(), *weights), unit(x)[0].detach().numpy(), atol=1e-6)


def test_attention_is_that_of_torch():
    """The whole layer: normalise, look, normalise, change, beside
    torch.nn.TransformerEncoderLayer with the same weights."""
    net = build_forecaster("patch_transformer", schema_of(), 1, {"size": 8, "heads": 2, "inside_size": 12})
    weights = net.build_initial_weights(1, WeightInitializer(1))
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, dropout=0, norm_first=True, batch_first=True)
    own = {name: torch.from_numpy(a) for name, a in weights.items()}
    layer = {
        "self_attn.in_proj_weight": torch.cat([own[f"{name}_0"].T for name in ("query", "key", "value")]),
        "self_attn.in_proj_bias": torch.zeros(24),
        "self_attn.out_proj.weight": own["mix_0"].T,
        "self_attn.out_proj.bias": torch.zeros(8),
        "linear1.weight": own["in_0"].T,
        "linear1.bias": own["in_shift_0"],
        "linear2.weight": own["out_0"].T,
        "linear2.bias": own["out_shift_0"],
        "norm1.weight": own["norm_gain_0"],
        "norm1.bias": own["norm_shift_0"],
        "norm2.weight": own["norm_gain_1"],
        "norm2.bias": own["norm_shift_1"],
    }
    theirs.load_state_dict(layer)
    seen = np.random.default_rng(1).standard_normal((5, len(net.patches), 8)).astype(np.float32)
    np.testing.assert_allclose(
        net._apply_layer(weights, seen, 0, TrainingHooks()),
        theirs(torch.from_numpy(seen)).detach().numpy(),
        atol=1e-6,
    )


# loss


@pytest.mark.parametrize(
    ("params", "loss"),
    [
        ({}, np.square),
        ({"loss": "absolute"}, np.abs),
        ({"loss": "quantile", "quantile": 0.9}, lambda e: np.maximum(0.9 * e, -0.1 * e)),
    ],
)
def test_the_loss_is_its_formula_over_the_known_pairs(params, loss):
    net, (x, z) = build_forecaster("nlinear", schema_of(), 1, params), pairs(64)
    z[::3, 1] = np.nan
    weights = net.build_initial_weights(2, WeightInitializer(1))
    inputs = NetInputs(x[:, :LAGS], x[:, LAGS - 1 :])
    learner = Learner(net, weights, 1)
    batch = build_batch([torch.from_numpy(a) for a in (*inputs, z)], torch.tensor(100))
    error = z - net.forward(weights, inputs, TrainingHooks())
    assert learner.training_step(batch, 0).item() == pytest.approx(np.nansum(loss(error)) / 100, rel=1e-5)


@pytest.mark.parametrize("quantile", [0.1, 0.9])
def test_a_quantile_has_its_share_below(quantile):
    x, z = pairs(1000)
    fit = fitted("mlp", x, z, loss="quantile", quantile=quantile, epochs=20, hidden_sizes=[16])
    assert (z < fit.predict(x)).mean() == pytest.approx(quantile, abs=0.03)


@pytest.mark.parametrize(
    "params", [{"loss": "quantile"}, {"quantile": 0.5}, {"devices": 2}, {"size": 6, "heads": 4}]
)
def test_parameters_that_do_not_fit_together_are_refused(params):
    with pytest.raises(ForecasterError, match=r"go together|strategy: ddp|multiple of `heads`"):
        build_forecaster("patch_transformer", schema_of(), 1, params)


def test_half_precision_without_a_gpu_is_refused():
    with pytest.raises(ForecasterError, match=r"precision: 16-mixed.*needs a GPU"):
        fitted(precision="16-mixed")


@pytest.mark.parametrize(
    ("has_gpu", "has_bf16", "accelerator", "found"),
    [
        (False, False, "auto", "32-true"),
        (True, True, "cpu", "32-true"),
        (True, True, "auto", "bf16-mixed"),
        (True, False, "auto", "16-mixed"),
    ],
)
def test_precision_follows_the_machine(monkeypatch, has_gpu, has_bf16, accelerator, found):
    """What torch says of a machine is all that differs between one with a GPU and this one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert get_precision(build_forecaster("gru", schema_of(), 1, {"accelerator": accelerator})) == found


@pytest.mark.parametrize("net", NETS)
def test_mixed_precision_finds_about_what_full_precision_finds(net):
    x, z = pairs()
    mixed, whole = (fitted(net, x, z, precision=p).predict(x) for p in ("bf16-mixed", "32-true"))
    assert np.abs(mixed - whole).max() > 0
    assert np.sqrt(np.mean(np.square(mixed - whole))) < 0.03 * np.std(z)


# how batches are worked through


def test_accumulated_batches_are_one_large_batch():
    x, _ = pairs()
    np.testing.assert_allclose(
        fitted(batch_rows=16, accumulate_batches=4).predict(x), fitted(batch_rows=64).predict(x), atol=1e-5
    )
    assert np.abs(fitted(batch_rows=16).predict(x) - fitted(batch_rows=64).predict(x)).max() > 1e-3


@pytest.mark.parametrize("net", ["lstm", "patch_transformer"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(net):
    params = {"layers": 3, "dropout_frac": 0.1}
    plain, again = (fitted(net, gradient_checkpointing=wanted, **params) for wanted in (False, True))
    np.testing.assert_array_equal(plain.predict(pairs()[0]), again.predict(pairs()[0]))
    assert kept_bytes(again) < 0.6 * kept_bytes(plain)


def kept_bytes(net):
    """What autograd keeps of one batch until it goes back."""
    kept, (x, z) = [], pairs(256)
    learner = Learner(net, get_net_weights(net), 1)
    batch = build_batch(
        [torch.from_numpy(np.ascontiguousarray(a)) for a in (*net._build_inputs(x), z)], torch.tensor(1)
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes), lambda t: t):
        learner.train().training_step(batch, 0)
    return sum(kept)


def test_two_processes_find_what_one_finds():
    """Gradients of a shared batch are those of the whole batch, though unknown pairs fall
    unevenly, and nobody is left over."""
    x, z = pairs()
    z[::2, 0] = np.nan
    one, two = (fitted(x=x, z=z, **params) for params in ({}, {"strategy": "ddp", "devices": 2}))
    np.testing.assert_allclose(two.predict(x), one.predict(x), atol=1e-5)
    assert not [process for server in psutil.Process().children() for process in server.children()]


# stopping on the newest part


def test_the_best_epoch_is_kept_and_the_rest_is_not_run(monkeypatch):
    losses, find = [], EarlyStopping._compute_loss

    def noted(self, learner):
        losses.append(find(self, learner))
        return losses[-1]

    monkeypatch.setattr(EarlyStopping, "_compute_loss", noted)
    x, z = pairs(300)
    z = np.random.default_rng(1).permutation(z)  # nothing to learn, so it soon gets worse
    fit = fitted("mlp", x, z, epochs=200, learning_rate=0.05, patience_epochs=3)
    assert len(losses) < 200
    assert losses.index(min(losses)) == len(losses) - 4
    held = np.arange(240, 300)
    target = (z[held] - x[held, :1] - fit.learned["mean"]) / fit.learned["sd"]
    predicted = (fit.predict(x[held]) - x[held, :1] - fit.learned["mean"]) / fit.learned["sd"]
    assert np.square(target - predicted).sum() == pytest.approx(min(losses), rel=1e-3)


def test_no_target_of_the_older_rows_lies_after_the_first_held_origin():
    """Over a panel of several series: origins and targets are written into x and z, and read
    back from what the net divides."""
    panel = small_panel(n_steps=120)
    walk = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=10)
    steps = np.arange(len(panel.event_time), dtype=np.float32)
    panel.x[:] = np.where(np.isfinite(panel.x), steps[:, None, None], np.nan)
    panel.z[:] = np.where(np.isfinite(panel.z), steps[:, None], np.nan)
    x, z = panel.get_training_pairs(100, walk)
    older, newer = build_forecaster("mlp", small_schema(), 1, {"patience_epochs": 1})._split_rows(z)
    origin = np.nanmax(x, axis=1)
    assert len(x[newer]) >= 20
    assert np.nanmax(z[older]) <= origin[newer].min()
    assert np.nanmax(z[older]) >= origin[newer].min() - 2  # no more is given away than must be


def test_too_few_rows_to_stop_by_run_all_epochs():
    x, z = pairs(30)
    np.testing.assert_array_equal(
        fitted("mlp", x, z, patience_epochs=1).predict(x), fitted("mlp", x, z).predict(x)
    )
