"""Types of spans: a name, and the role and the group where the training data has them.

A tag of a task that learnt roles holds a label in place of a name: `city (role from, group 1)`. The label is readable and
unambiguous, whatever characters the three texts hold. A manifest lists the type of each label (`Decode.span_types`), so
that no reader of a bundle has to parse labels. This module is the only place that writes and parses them.
"""

import re

from pydantic import BaseModel, ConfigDict

_PART = r"(?:[^\\(),]|\\.)+"
_DETAILS = re.compile(rf" \((?:role ({_PART})(?:, group ({_PART}))?|group ({_PART}))?\)\Z", re.DOTALL)
"""End of a label with a role or a group. Empty brackets end the label of a name that looks like such a label itself."""
_RESERVED = re.compile(r"[\\(),]")


class SpanType(BaseModel):
    """Name, role and group of spans. A role or group that the data does not have is empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: str = ""
    group: str = ""


def span_label(name: str, role: str = "", group: str = "") -> str:
    """Return the label of a span type. Different types have different labels.

    Args:
        name: name of the span (`city`).
        role: its role (`from`), or "".
        group: its group (`1`), or "".
    """
    details = []
    for key, value in (("role", role), ("group", group)):
        if value:
            details.append(f"{key} {_RESERVED.sub(_escape, value)}")
    if details or _DETAILS.search(name):
        return f"{name} ({', '.join(details)})"
    return name


def parse_span_label(label: str) -> SpanType:
    """Return the span type of a label that `span_label` wrote."""
    details = _DETAILS.search(label)
    if details is None:
        return SpanType(name=label)
    role, group, only_group = details.groups(default="")
    return SpanType(name=label[: details.start()], role=_unescape(role), group=_unescape(group or only_group))


def _escape(character: re.Match[str]) -> str:
    return f"\\{character[0]}"


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
