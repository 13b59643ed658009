"""Base class of the groups of options."""

from pydantic import BaseModel, ConfigDict


class OptionGroup(BaseModel):
    """A group of options. The docstring is their heading in the help text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
