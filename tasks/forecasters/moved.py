"""Names that have moved and that a model of one's own may import: they go on for one release."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def find_moved(old: str, module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for the module *old*, which gives what *module* has now.

    names: old name: new name, of those that were renamed.
    The function raises AttributeError for what is in neither, and warns of each name that it gives.
    """

    def get_moved(name: str) -> Any:
        new = names.get(name, name)
        found = import_module(module)
        if not hasattr(found, new):
            raise AttributeError(
                f"{old} has no {name!r}; it has moved to {module}, which has no {new!r} either."
            )
        if not name.startswith("__"):
            message = f"{old}.{name} is {module}.{new} now; the old name goes with the next release."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(found, new)

    return get_moved
