"""Names that have moved and that a user's own model may import: they work for one release."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def find_moved(old: str, module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for the module *old*, which returns the names of *module*.

    names: old name: new name, of those that were renamed.
    The function warns of each name that it returns, and raises AttributeError for an unknown one.
    """

    def get_moved(name: str) -> Any:
        new = names.get(name, name)
        found = import_module(module)
        if not hasattr(found, new):
            raise AttributeError(
                f"{old} has no {name!r}; it has moved to {module}, which has no {new!r} either."
            )
        if not name.startswith("__"):
            message = f"{old}.{name} is {module}.{new} now; the old name is removed in the next release."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(found, new)

    return get_moved
