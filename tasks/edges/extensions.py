"""Importing a user's own code: a file in `tasks/extensions`, or an installed package."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.core.errors import TidemillError
from tasks.core.extensions import FOLDER, OLD_FOLDER, warn_of_old_folder
from tasks.edges.settings import ROOT

PACKAGE = FOLDER.replace("/", ".")


def import_extension_class(
    module: str, attribute: str, methods: tuple[str, ...], base: str, error_type: type[TidemillError]
) -> type[Any]:
    """The class *attribute* of *module*.

    methods: that it must have.
    base: what it should be derived from or look like, for the message.
    Raises *error_type* for a missing module, class or method, and for a missing library.
    """
    found = getattr(import_extension(module, error_type), attribute, None)
    if found is None:
        raise error_type(
            f"The module {module!r} has no {attribute!r}. Correct the name behind the colon,"
            f" `{module}:<Class>`."
        )
    missing = [name for name in methods if not callable(getattr(found, name, None))]
    if not isinstance(found, type) or missing:
        raise error_type(f"`{module}:{attribute}` does not fit: {missing or 'a class'} is missing. {base}")
    return found


def import_extension(module: str, error_type: type[TidemillError]) -> ModuleType:
    """*module* of `tasks/extensions`, or else an installed one.

    Raises *error_type* when there is none, or when it cannot be imported.
    """
    for name in (f"{PACKAGE}.{module}", module):
        if name == module and (old_folder := str(ROOT / OLD_FOLDER)) not in sys.path:
            sys.path.append(old_folder)  # last, so that a file there hides no library
        try:
            found = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise error_type(
                    f"{module}.py needs {error.name!r}, which is not installed. Install it into .venv, or"
                    " write the module without it."
                ) from error
        except Exception as error:  # whatever a user's module raises
            raise error_type(
                f"{module}.py cannot be imported: {type(error).__name__}: {error}. Correct it."
            ) from error
        else:
            warn_of_old_folder(Path(found.__file__ or ""))
            return found
    raise error_type(f"No module {module!r}. Put {module}.py into {FOLDER}, or install its package.")
