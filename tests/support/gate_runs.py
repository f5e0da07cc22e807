"""Gates on losses drawn by hand: AR(1) around 1, and what the gate's rule makes of them."""

import numpy as np

from tasks.core.cosine import compute_cosine_tests
from tasks.promote.looks import compute_look_level

N_PLANNED = 246  # a year of trading days, horizon 5
ALPHA, MIN_GAIN_FRAC, LOSS_SD = 0.05, 0.005, 0.2
LOOKS = {
    "one gate": (N_PLANNED,),
    "four looks": (62, 123, 185, N_PLANNED),
    "a look every 6th cutoff": tuple(range(60, N_PLANNED + 1, 6)),
}


def draw_losses(n_pairs, rho, gain_frac=0.0, seed=0):
    """(challenger, opponent), each (n_pairs, cutoffs), independent of each other."""
    noise = np.random.default_rng(seed).normal(size=(2, n_pairs, N_PLANNED))
    for t in range(1, N_PLANNED):
        noise[:, :, t] = rho * noise[:, :, t - 1] + np.sqrt(1 - rho**2) * noise[:, :, t]
    challenger, opponent = 1 + LOSS_SD * noise
    return (1 - gain_frac) * challenger, opponent


def run_looks(challenger, opponent, looks):
    """(n_pairs,) how many cutoffs each pair had when it passed; 0 for never."""
    passed_at = np.zeros(len(challenger), dtype=int)
    difference = (1 - MIN_GAIN_FRAC) * opponent - challenger
    for k, n in enumerate(looks):
        level = compute_look_level(ALPHA, [m / N_PLANNED for m in looks[: k + 1]])
        passes = compute_cosine_tests(difference[:, :n])[1] <= level
        passed_at = np.where((passed_at == 0) & passes, n, passed_at)
    return passed_at
