"""What the stages know of a dataset besides its rows."""

from dataclasses import dataclass

from tasks.core.about import About
from tasks.core.calendar import Calendar
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
