"""Has moved to `tasks.forecasters.parts.residuals`; this name works for one release."""

from tasks.forecasters.moved import find_moved

NAMES = {
    "Pairs": "ResidualPairs",
    "Groundwork": "FittedBase",
}
__getattr__ = find_moved(__name__, "tasks.forecasters.parts.residuals", NAMES)
