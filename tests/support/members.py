"""Members made by hand on a small panel, laid on one timeline as the ensemble stage gets them."""

import numpy as np
from panels import small_panel

from tasks.ensemble.align import AlignedForecasts, align_forecasts
from tasks.ensemble.combiner import CombinerContext
from tasks.ensemble.known import MemberErrors, list_refits
from tasks.ensemble.params import EnsembleParams
from tasks.train.walk import WalkForecasts, build_forecast_frame

PARAMS = EnsembleParams(
    prune_above_frac=0.1,
    shrink_frac=0.25,
    residuals=100,
    adapt_rate=0.02,
    reweight_every_cutoffs=20,
    burn_in_cutoffs=30,
)
GATE = 40


def member(panel, name, values, origins):
    """Forecasts of one member at *origins*: values(origin, series) -> (H,)."""
    where = np.array([(o, s) for o in origins for s in range(len(panel.series_ids))])
    z_hat = np.array([values(o, s) for o, s in where])
    return build_forecast_frame(panel, WalkForecasts(where, z_hat), name)


def aligned_of(members, panel=None, stride=1, n_walk=201) -> AlignedForecasts:
    """Members named like baselines where they should count as such."""
    panel = panel or small_panel()
    last = len(panel.event_time) - 1 - GATE
    walk = {n: member(panel, n, f, range(last - n_walk + 1, last + 1, stride)) for n, f in members.items()}
    gate = {n: member(panel, n, f, range(last, last + GATE + 1)) for n, f in members.items()}
    return align_forecasts(walk, gate, panel, stride)


def small_members(panel, phi=0.7):
    """A naive one, the best that can be, and noise around the level."""
    truth, steps, rng = panel.z, np.arange(1, 4), np.random.default_rng(5)
    return {
        "last_value": lambda o, s: np.full(3, truth[o, s]),
        "har": lambda o, s: 10 + phi**steps * (truth[o, s] - 10),
        "noise": lambda o, s: 10 + 8 * rng.normal(size=3),
    }


def noisy_members(panel, noises, phi=0.7, seed=3):
    """The best that can be, each with an error of its own of this size."""
    steps, rng = np.arange(1, 4), np.random.default_rng(seed)
    return {
        name: lambda o, s, noise=noise: 10 + phi**steps * (panel.z[o, s] - 10) + noise * rng.normal(size=3)
        for name, noise in noises.items()
    }


def context_of(aligned, params=PARAMS, at=(), **changes) -> CombinerContext:
    """Ground whose refits lie where the stage would put them, and at the cutoffs *at*."""
    params = params.model_copy(update=changes)
    refits = list_refits(aligned.n_walk, params.reweight_every_cutoffs, [aligned.n_walk - 1, *at])
    return CombinerContext(aligned, MemberErrors(aligned, refits, params.newest_frac), params, absolute=False)
