"""Strict reading of YAML to nodes with line numbers.

No objects are constructed and no types resolved.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from palm_trainer.data.formats.text_files import Defects, read_text
from palm_trainer.errors import DataError

_MAX_DEPTH = 64
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape of JSON that the fast parser refuses, even in a valid pair."""


def compose_yaml(file: Path, defects: Defects) -> yaml.Node | None:
    """Parse a file to its node tree; None if it has no content.

    Args:
        file: file to read.
        defects: tally of repaired defects.

    Raises:
        DataError: the file is not YAML, a key stands twice in a mapping, or it is nested too
            deeply.
    """
    text = read_text(file, defects)
    is_fast = yaml.__with_libyaml__ and not _SURROGATE_ESCAPE.search(text)
    loader: Any = yaml.CSafeLoader if is_fast else yaml.SafeLoader
    try:
        return _Composer(file).compose(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise DataError(f"{file}:{position}: not YAML: {error.problem}; check indentation and quotes") from None
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not YAML: {str(error).splitlines()[0]}; remove control characters") from None
    except ValueError as error:  # an escape beyond the last code point, which PyYAML passes to `chr`
        raise DataError(f"{file}: not YAML: {error}; correct the escape") from None


def scalar_values(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    """Return the values of a mapping by its scalar keys."""
    values = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            values[key.value] = value
    return values


class _Composer:
    """Builds nodes from events without recursion.

    Args:
        file: file of the events, for messages.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._anchors: dict[str, yaml.Node] = {}
        self._open: list[tuple[yaml.CollectionNode, list[yaml.Node]]] = []
        """Collections that have not ended, outermost first, each with its items so far."""
        self._root: yaml.Node | None = None

    def compose(self, events: Iterator[yaml.Event]) -> yaml.Node | None:
        """Return the root of a stream with at most one document."""
        for event in events:
            start: Any = event.start_mark
            place = f"{self._file}:{start.line + 1}"
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in self._anchors:
                    raise DataError(f"{place}: alias '*{event.anchor}' has no anchor; name an anchor above it")
                self._add(self._anchors[event.anchor], place)
            elif isinstance(event, yaml.ScalarEvent):
                end: Any = event.end_mark
                value = join_surrogates(event.value, place)
                node = yaml.ScalarNode("", value, start, end, style=event.style)
                self._register(event.anchor, node)
                self._add(node, place)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event, place)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end(event)
        return self._root

    def _begin(self, event: yaml.CollectionStartEvent, place: str) -> None:
        if len(self._open) == _MAX_DEPTH:
            raise DataError(f"{place}: nested deeper than {_MAX_DEPTH} levels; quote text with brackets")
        node_class = yaml.SequenceNode if isinstance(event, yaml.SequenceStartEvent) else yaml.MappingNode
        start: Any = event.start_mark
        node = node_class("", [], start, None)
        self._register(event.anchor, node)
        self._open.append((node, []))

    def _end(self, event: yaml.Event) -> None:
        node, items = self._open.pop()
        end: Any = event.end_mark
        node.end_mark = end
        if isinstance(node, yaml.MappingNode):
            node.value = list(zip(items[::2], items[1::2], strict=True))
            self._check_keys(node)
        else:
            node.value = items
        self._add(node, f"{self._file}:{node.start_mark.line + 1}")

    def _add(self, node: yaml.Node, place: str) -> None:
        if self._open:
            self._open[-1][1].append(node)
        elif self._root is None:
            self._root = node
        else:
            raise DataError(f"{place}: not YAML: a second document in one file; write a file for each")

    def _register(self, anchor: str | None, node: yaml.Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Check that no key stands twice."""
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise DataError(f"{self._file}:{line}: '{key.value}' stands twice; keep one, or join their content")
                keys.add(key.value)


def join_surrogates(text: str, source: str) -> str:
    """Join the escaped halves of surrogate pairs, as JSON writes characters above U+FFFF.

    Raises:
        DataError: a half stands alone.
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise DataError(f"{source}: an escape is half of a surrogate pair; write the whole character") from None
