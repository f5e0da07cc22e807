"""When a simulated loop retrains."""

from typing import NamedTuple

from tasks.core.errors import ParamsError

DEFAULT_POLICIES = ("never", "every:63", "loop")
_FORMS = "`never`, `always`, `loop` or `every:STEPS`, for example `every:63`"


class Policy(NamedTuple):
    """One policy.

    name: as it was written.
    may_start: False for `never`.
    every_steps: steps of data between two trainings; None where the decision alone starts one.
    """

    name: str
    may_start: bool
    every_steps: int | None

    def find_reason(self, passed_steps: int) -> str | None:
        """Why a retraining starts whatever is decided; None when the decision counts.

        passed_steps: steps since the last training.
        """
        if self.every_steps is None or passed_steps < self.every_steps:
            return None
        return f"{passed_steps} steps since the last training, policy {self.name}"

    @property
    def is_decided(self) -> bool:
        """Whether the decision of the stage `retrain` starts a training."""
        return self.may_start and self.every_steps is None


def parse_policy(name: str) -> Policy:
    """The policy called *name*. Raises ParamsError that lists the forms."""
    kind, _, steps = name.partition(":")
    if name in {"never", "always", "loop"}:
        return Policy(name, name != "never", 1 if name == "always" else None)
    if kind == "every" and steps.isdecimal() and int(steps) > 0:
        return Policy(name, may_start=True, every_steps=int(steps))
    raise ParamsError(f"{name!r} is no policy of retraining. Write {_FORMS}.")


def parse_policies(names: tuple[str, ...]) -> tuple[Policy, ...]:
    """The policies in the order given, each once.

    Raises ParamsError for none, for an unknown one, and for one that is given twice.
    """
    if not names:
        raise ParamsError(f"No policy of retraining is given. Write {_FORMS}.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ParamsError(f"The policy {twice[0]!r} is given twice. Name each policy once.")
    return tuple(parse_policy(name) for name in names)
