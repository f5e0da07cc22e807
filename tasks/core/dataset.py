"""What the stages know of a dataset besides its rows."""

from dataclasses import dataclass

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.kinds import get_kind
from tasks.core.kinds.base import Kind
from tasks.core.schema import FeatureSchema


@dataclass(frozen=True)
class Dataset:
    """One dataset, from its features on.

    about: grid, target, horizon and score.
    calendar: which steps exist; it dates the future steps.
    schema: the features that its models see.
    """

    about: About
    calendar: Calendar
    schema: FeatureSchema

    @property
    def kind(self) -> Kind:
        """The kind of the target."""
        return get_kind(self.about.target)
