"""Parameters of the stage `train`."""

from tasks.core.windows import WalkForward


class TrainParams(WalkForward):
    """How to walk, and the seed of everything random."""

    seed: int = 1
