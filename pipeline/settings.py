"""The base of every record a user may fill in: frozen, and unknown keys are refused."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen set of options that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
