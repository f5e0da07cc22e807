"""The base of all reports: version of their form, names of older versions, lists of figures."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    ValidationError,
)

from tasks.core.errors import FrameError
from tasks.core.strict import Strict

Figure = bool | int | float | str | list[object] | None
IsoTime = Annotated[
    AwareDatetime,
    AfterValidator(lambda time: time.astimezone(UTC)),
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
]
ContentT = TypeVar("ContentT")
ABSENT: Any = Field(default=None, exclude_if=lambda value: value is None)  # a key that need not be there

# Keys that name an entry of a list
_NAMES = ("series_id", "stream", "file", "feature", "year", "step", "digest")


class StageFile(ABC):
    """A JSON file that a stage hands on, as an object.

    PATH: of the file, from the checkout's root; `<...>` is what varies.
    """

    PATH: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def parse(cls, content: Any, source: str) -> Self:
        """The object of *content*, the JSON of *source* (a path, for errors).

        Raises FrameError when it has another form.
        """

    @abstractmethod
    def render(self) -> Any:
        """The JSON content of the file."""

    def list_figures(self) -> dict[str, Figure]:
        """Plain values by dotted name, without the version of the form.

        An entry of a list goes by what names it, else by its index; a list of plain values is one
        value.
        """
        figures = ((name.removesuffix("."), figure) for name, figure in _iterate_leaves(self.render(), ""))
        return {name: figure for name, figure in figures if name != "schema"}


class Report(StageFile, Strict):
    """A JSON object that knows the version of its form.

    schema_version: of the file's form, `schema` in the file; a file without it is of the first.
    OLD_NAMES: key in files of an earlier version -> its name now, read for one release.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    SCHEMA: ClassVar[int] = 1
    OLD_NAMES: ClassVar[Mapping[str, str]] = {}

    schema_version: int = Field(default=1, alias="schema", ge=1)

    @classmethod
    def parse(cls, content: Any, source: str) -> Self:
        """The report in *content*, the JSON object of *source* (a path, for errors).

        Raises FrameError for a version that is newer than this code's, and for keys or values that
        the form does not have.
        """
        if not isinstance(content, Mapping):
            raise FrameError(f"{source} is no {cls.__name__}: no JSON object. Run the stage that writes it.")
        version = content.get("schema", 1)
        if isinstance(version, int) and version > cls.SCHEMA:
            raise FrameError(
                f"{source} has `schema: {version}`, and this version of Tidemill reads up to {cls.SCHEMA}."
                " Update Tidemill, or run the stage that writes the file."
            )
        with _convert_form_errors(cls, source):
            return cls.model_validate({cls.OLD_NAMES.get(key, key): value for key, value in content.items()})

    def render(self) -> Any:
        """The JSON object of the file."""
        return self.model_dump(mode="json")


class ReportTable(StageFile, RootModel[ContentT], Generic[ContentT]):
    """A JSON list, or an object by series: it has no room for a version."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def parse(cls, content: Any, source: str) -> Self:
        """The table in *content*, of *source* (a path, for errors).

        Raises FrameError for what the form does not have.
        """
        with _convert_form_errors(cls, source):
            return cls.model_validate(content)

    def render(self) -> Any:
        """The content of the file."""
        return self.model_dump(mode="json")


def _iterate_leaves(content: Any, prefix: str) -> Iterator[tuple[str, Figure]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _iterate_leaves(value, f"{prefix}{key}.")
    elif isinstance(content, list) and any(isinstance(value, dict | list) for value in content):
        for index, value in enumerate(content):
            name = _find_entry_name(value) if isinstance(value, dict) else None
            yield from _iterate_leaves(value, f"{prefix}{index if name is None else name}.")
    else:
        yield prefix, content


def _find_entry_name(entry: Mapping[str, object]) -> object:
    return next((entry[key] for key in _NAMES if key in entry), None)


@contextmanager
def _convert_form_errors(kind: type[StageFile], source: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        facts = error.errors()[0]
        key = ".".join(str(part) for part in facts["loc"])
        raise FrameError(
            f"{source} is no {kind.__name__}: `{key}`: {facts['msg']}. Run the stage that writes it."
        ) from error
