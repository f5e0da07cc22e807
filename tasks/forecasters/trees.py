"""Has moved to `tasks.forecasters.parts.trees`; this name works for one release."""

from tasks.forecasters.moved import find_moved

NAMES = {
    "Grown": "FittedBooster",
}
__getattr__ = find_moved(__name__, "tasks.forecasters.parts.trees", NAMES)
