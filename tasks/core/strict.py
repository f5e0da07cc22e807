"""The base of every parameter object and report."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen; an unknown key is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
