"""Rasa's NLU training data, YAML 2.0 and 3.1, a file or a directory of files. Fields: `intent`, `slots`.

Entities: `[value](name)`, `[value](name:synonym)`, `[value]{"entity": ..., "role": ..., "group": ..., "value": ...}`,
and a list of such objects, of which the first counts. Content that a span cannot hold (synonyms) and sections without
examples (synonym, regex, lookup) are reported as skipped. Every scalar stays a string: an intent may be called `yes`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text, split_lines
from palm_trainer.errors import DataError

NO_DASH = "line without '- ' before the example (passed over)"
SYNONYM = "synonym given with an entity (passed over)"
MORE_ENTITIES = "further entity on the same words (passed over)"
SECTIONS = ("synonym", "regex", "lookup")

_ENTITY = re.compile(
    r"\[(?P<value>[^\]]+?)\](?:\((?P<name>[^):]+)(?::(?P<synonym>[^)]*))?\)|(?P<json>\{[^}]*\})|\[(?P<list>\{.*?\})\])"
)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of the `nlu` section of a file, or of all YAML files of a directory.

    Args:
        path: file or directory to read.
        options: not used.
        defects: tally of repaired defects.

    Raises:
        DataError: a file is not YAML or has no `nlu` list, an intent has no examples, or an annotation is malformed.
    """
    files = yaml_files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no .yml or .yaml file in this directory; name the NLU file")
    for file in files:
        root = _compose(file, defects)
        sections = _mapping(root) if isinstance(root, yaml.MappingNode) else {}
        nlu = sections.get("nlu")
        if isinstance(nlu, yaml.SequenceNode):
            for item in nlu.value:
                yield from _item(item, file, defects)
        elif not path.is_dir():
            raise DataError(f"{file}:1: no `nlu:` list; Rasa's training data has one (YAML 2.0 or 3.1)")


def yaml_files(folder: Path) -> list[Path]:
    """List all YAML files of a directory and its subdirectories."""
    return sorted(file for file in folder.rglob("*") if file.suffix in (".yml", ".yaml"))


def holds_examples(file: Path) -> bool:
    """Return True if a YAML file has an `nlu` section. Other files of a Rasa project (domain, rules) have none."""
    return re.search(rb"^nlu\s*:", file.read_bytes(), re.MULTILINE) is not None


def _compose(file: Path, defects: Defects) -> yaml.Node | None:
    """Parse a file to its node tree, which has line numbers. No objects are constructed and no types resolved."""
    try:
        node: yaml.Node | None = yaml.compose(read_text(file, defects), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise DataError(f"{file}:{position}: not YAML: {error.problem}; check indentation and quotes") from None
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not YAML: {str(error).splitlines()[0]}; remove control characters") from None
    return node


def _mapping(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _item(item: yaml.Node, file: Path, defects: Defects) -> Iterator[Example]:
    """Yield the examples of one item of the `nlu` list."""
    source = f"{file}:{item.start_mark.line + 1}"
    keys = _mapping(item) if isinstance(item, yaml.MappingNode) else {}
    for section in SECTIONS:
        if section in keys:
            defects.add(f"{section} section (passed over)", source)
            return
    intent = keys.get("intent")
    examples = keys.get("examples")
    if not isinstance(intent, yaml.ScalarNode) or not intent.value or examples is None:
        raise DataError(f"{source}: an item without `intent` and `examples`; each needs both")
    for text, line in _examples(examples, file, defects):
        source = f"{file}:{line}"
        plain_text, spans = _read_entities(text, source, defects)
        if not plain_text.strip():
            raise DataError(f"{source}: an empty example; remove it")
        yield Example(plain_text, {"intent": intent.value, "slots": spans}, source=source)


def _examples(node: yaml.Node, file: Path, defects: Defects) -> Iterator[tuple[str, int]]:
    """Yield annotated texts with their line numbers, from a block of `- text` lines or a list of `text:` items."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            text = _mapping(item).get("text") if isinstance(item, yaml.MappingNode) else item
            if not isinstance(text, yaml.ScalarNode):
                raise DataError(f"{file}:{item.start_mark.line + 1}: an example without `text`; write `- text: ...`")
            yield text.value.strip(), text.start_mark.line + 1
        return
    if not isinstance(node, yaml.ScalarNode):
        raise DataError(
            f"{file}:{node.start_mark.line + 1}: `examples` is neither a block of `- text` lines nor a list"
        )
    # A literal block begins on the line after its `|`.
    first_line = node.start_mark.line + (2 if node.style in ("|", ">") else 1)
    for number, line in enumerate(split_lines(node.value), first_line):
        if line.lstrip().startswith("-"):
            yield line.lstrip()[1:].strip(), number
        elif line.strip():
            defects.add(NO_DASH, f"{file}:{number}")


def _read_entities(text: str, source: str, defects: Defects) -> tuple[str, tuple[LabelledSpan, ...]]:
    """Return the text without annotations, and their spans."""
    segments: list[str] = []
    spans: list[LabelledSpan] = []
    position = 0  # in the annotated text
    length = 0  # of the plain text
    for match in _ENTITY.finditer(text):
        text_before = text[position : match.start()]
        value = match["value"]
        segments += [text_before, value]
        start = length + len(text_before)
        length = start + len(value)
        position = match.end()
        entity = _entity(match, source, defects)
        spans.append(LabelledSpan(start, length, entity["entity"], entity.get("role", ""), entity.get("group", "")))
    segments.append(text[position:])
    return "".join(segments), tuple(spans)


def _entity(match: re.Match[str], source: str, defects: Defects) -> dict[str, str]:
    """Return the keys of an annotation, with its name as `entity`."""
    if match["name"]:
        if match["synonym"] is not None:
            defects.add(SYNONYM, source)
        return {"entity": match["name"].strip()}
    try:
        entities = json.loads(f"[{match['list'] or match['json']}]")
    except json.JSONDecodeError as error:
        raise DataError(f"{source}: annotation {match[0]!r} is not JSON: {error.msg}; use double quotes") from None
    entity = entities[0]
    if not isinstance(entity.get("entity"), str) or not entity["entity"]:
        raise DataError(f'{source}: annotation {match[0]!r} names no entity; add "entity": "NAME"')
    if len(entities) > 1:
        defects.add(MORE_ENTITIES, source, len(entities) - 1)
    if "value" in entity:
        defects.add(SYNONYM, source)
    return {key: str(value) for key, value in entity.items()}
