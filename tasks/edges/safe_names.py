"""Names outside: one reversible mapping for all that has a name in MLflow, Prefect or a folder.

A character that is refused there, or accepted only in some positions, becomes `_xHHHH_`, its code
point in hex, as in ISO 9075-14: series `^GSPC` gives MLflow's metric `series._x005e_GSPC.mae`.
Ordinary names stay as they are. A name that is too long is cut, and a tag of MLflow's run keeps it
whole. A slug, Prefect's key of an artifact, has dashes in place of underscores. Prometheus takes
any text as the value of a label, so nothing is encoded there.
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
_NO_SLUG = re.compile(r"[^a-z0-9_]|_(?=x)")
_SLUG_ESCAPE = re.compile(r"-x([0-9a-f]{4,})-")
_CUT = re.compile(r"_xh([0-9a-f]{16})_$")


def encode_name(name: str) -> str:
    """*name* as MLflow and a folder accept it; different names stay different.

    An empty name is `_x_`.
    """
    return _encode_long_text(_encode_refused_chars(name))


def encode_names(names: Iterable[str]) -> dict[str, str]:
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
    """Tags that keep those names whole that were cut. names: of `encode_names`."""
    cut = {_CUT.search(safe): name for name, safe in names.items()}
    return {f"{LONG_NAME}{match[1]}": name[:TAG_VALUE_CHARS] for match, name in cut.items() if match}


def decode_name(name: str, tags: Mapping[str, str] | None = None) -> str:
    """The name that MLflow shows as *name*. tags: of its run, where a cut name is kept whole."""
    if (match := _CUT.search(name)) and (whole := (tags or {}).get(f"{LONG_NAME}{match[1]}")) is not None:
        return whole
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", name)


def encode_slug(name: str) -> str:
    """*name* in small letters, digits and dashes; different names stay different."""
    return _NO_SLUG.sub(lambda match: f"-x{ord(match[0]):04x}-", name).replace("_", "-")


def decode_slug(slug: str) -> str:
    """The name whose slug is *slug*."""
    parts = _SLUG_ESCAPE.split(slug)  # text, code point, text, ...
    texts = [chr(int(part, 16)) if k % 2 else part.replace("-", "_") for k, part in enumerate(parts)]
    return "".join(texts)


def _encode_refused_chars(name: str) -> str:
    return _REFUSED.sub(lambda match: f"_x{ord(match[0]):04x}_", name) or "_x_"


def _encode_capital(char: str) -> str:
    return f"_x{ord(char):04x}_" if char != char.lower() else char


def _encode_long_text(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    suffix = f"_xh{hashlib.sha256(text.encode()).hexdigest()[:16]}_"
    return text[: MAX_CHARS - len(suffix)] + suffix
