"""Messages between a server and the process of its resolvers, one JSON object a line."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

TIMED = ("date", "time")
"""Resolvers whose answers depend on the time."""


@dataclass(frozen=True, slots=True)
class Question:
    """A value to resolve, with the time and the zone of the user."""

    resolver: str
    text: str
    time: datetime
    zone: str

    def to_line(self) -> bytes:
        """Return the question as one line."""
        content = [self.resolver, self.text, self.time.timestamp(), self.zone]
        return json.dumps(content).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Question":
        """Return the question of a line."""
        resolver, text, seconds, zone = json.loads(line)
        return cls(resolver, text, datetime.fromtimestamp(seconds, UTC), zone)


@dataclass(frozen=True, slots=True)
class Reading:
    """The meaning that a library reads in a value."""

    canonical: str
    json: str

    def to_line(self) -> bytes:
        """Return the meaning as one line."""
        return json.dumps([self.canonical, self.json]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Reading":
        """Return the meaning of a line."""
        canonical, content = json.loads(line)
        return cls(canonical, content)


READY = b"ready\n"
UNKNOWN = b"unknown\n"
"""Answer where no library knows the value."""
FAILED = b"failed\n"
"""Answer where a library raised an exception."""
