"""What all reports share: a version of their form, and names that an older version had."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, PlainSerializer, ValidationError

from tasks.core.errors import FrameError
from tasks.core.strict import Strict

IsoTime = Annotated[datetime, PlainSerializer(datetime.isoformat, return_type=str, when_used="json")]
ABSENT: Any = Field(default=None, exclude_if=lambda value: value is None)  # a key that need not be there


class Report(Strict):
    """A JSON file of a stage.

    schema_version: of the file's form, `schema` in the file; a file without it is of the first.
    OLD_NAMES: key in files of an earlier version -> its name now, read for one release.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    SCHEMA: ClassVar[int] = 1
    OLD_NAMES: ClassVar[Mapping[str, str]] = {}

    schema_version: int = Field(default=1, alias="schema", ge=1)

    @classmethod
    def parse(cls, content: Mapping[str, Any], source: str) -> Self:
        """The report in *content*, the JSON object of *source* (a path, for errors).

        Raises FrameError for a version that is newer than this code's, and for keys or values that
        the form does not have.
        """
        version = content.get("schema", 1)
        if isinstance(version, int) and version > cls.SCHEMA:
            raise FrameError(
                f"{source} has `schema: {version}`, and this version of Tidemill reads up to {cls.SCHEMA}."
                " Update Tidemill, or run the stage that writes the file."
            )
        try:
            return cls.model_validate({cls.OLD_NAMES.get(key, key): value for key, value in content.items()})
        except ValidationError as error:
            facts = error.errors()[0]
            place = ".".join(str(part) for part in facts["loc"])
            raise FrameError(
                f"{source} is no {cls.__name__}: `{place}`: {facts['msg']}. Run the stage that writes it."
            ) from error

    def render(self) -> dict[str, Any]:
        """The JSON object of the file."""
        return self.model_dump(mode="json")
