"""Base class of the groups of options."""

from pydantic import BaseModel, ConfigDict, field_validator

_LARGEST = 2**31 - 1
"""Limit of every number without one of its own: gRPC's settings have 32 bits, and timers refuse much more."""


class OptionGroup(BaseModel):
    """A group of options. The docstring is their heading in the help text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _within_32_bits(cls, value: object) -> object:
        if isinstance(value, int | float) and not value <= _LARGEST:
            raise ValueError(f"must be at most {_LARGEST}")
        return value
