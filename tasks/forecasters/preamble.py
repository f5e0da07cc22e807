"""Has moved to `tasks.forecasters.parts.normalizer`; this name works for one release."""

from tasks.forecasters.moved import find_moved

NAMES = {
    "last_values": "select_last_values",
    "seasonal_values": "select_seasonal_values",
    "Seen": "NormalizedInputs",
    "Preamble": "Normalizer",
}
__getattr__ = find_moved(__name__, "tasks.forecasters.parts.normalizer", NAMES)
