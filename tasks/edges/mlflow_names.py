"""Names that MLflow accepts: one reversible mapping for all that has a name there.

A character that MLflow refuses, or accepts only in some positions, becomes `_xHHHH_`, its code
point in hex, as in ISO 9075-14: series `^GSPC` gives the metric `series._x005e_GSPC.mae`. Ordinary
names stay as they are. A name that is too long is cut, and a tag of the run keeps it whole.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping

MAX_CHARS = 250  # of a metric, parameter or tag; of a registered model it is 256
TAG_VALUE_CHARS = 8_000
LONG_NAME = "tidemill.name."  # tag: this and the cut name's hash; its value is the whole name
# A slash may make a path that is not normal, a server on Windows refuses a colon, and an `_x` would
# look like an escape
_REFUSED = re.compile(r"[^\w.\- ]|_(?=x)|^\.|^ | $")
_ESCAPED = re.compile(r"_x([0-9a-f]*)_")
_CUT = re.compile(r"_xh([0-9a-f]{16})_$")


def encode_mlflow_name(name: str) -> str:
    """*name* as MLflow accepts it; different names stay different. An empty name is `_x_`."""
    return _encode_long_text(_encode_refused_chars(name))


def encode_mlflow_names(names: Iterable[str]) -> dict[str, str]:
    """MLflow's name of each of *names* in one run.

    The capitals of names that differ only in case are escaped: some databases compare them equal.
    """
    escaped = {name: _encode_refused_chars(name) for name in names}
    n_equal = Counter(text.lower() for text in escaped.values())
    return {
        name: _encode_long_text("".join(map(_encode_capital, text)) if n_equal[text.lower()] > 1 else text)
        for name, text in escaped.items()
    }


def build_long_name_tags(names: Mapping[str, str]) -> dict[str, str]:
    """Tags that keep those names whole that were cut. names: of `encode_mlflow_names`."""
    cut = {_CUT.search(safe): name for name, safe in names.items()}
    return {f"{LONG_NAME}{match[1]}": name[:TAG_VALUE_CHARS] for match, name in cut.items() if match}


def decode_mlflow_name(name: str, tags: Mapping[str, str] | None = None) -> str:
    """The name that MLflow shows as *name*. tags: of its run, where a cut name is kept whole."""
    if (match := _CUT.search(name)) and (whole := (tags or {}).get(f"{LONG_NAME}{match[1]}")) is not None:
        return whole
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", name)


def _encode_refused_chars(name: str) -> str:
    return _REFUSED.sub(lambda match: f"_x{ord(match[0]):04x}_", name) or "_x_"


def _encode_capital(char: str) -> str:
    return f"_x{ord(char):04x}_" if char != char.lower() else char


def _encode_long_text(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    suffix = f"_xh{hashlib.sha256(text.encode()).hexdigest()[:16]}_"
    return text[: MAX_CHARS - len(suffix)] + suffix
