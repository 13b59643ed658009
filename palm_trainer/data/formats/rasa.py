"""Rasa's NLU training data, YAML 2.0 and 3.1, a file or a directory of files. Fields: `intent`, `slots`.

Entities: `[value](name)`, `[value](name:synonym)`, `[value]{"entity": ..., "role": ..., "group": ..., "value": ...}`,
and a list of such objects, of which the first counts. What a span cannot hold (synonyms) and sections without examples
(synonym, regex, lookup) are reported as passed over. Every scalar stays a string: an intent may be called `yes`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.text_files import Defects, FormatOptions, lines, read_text
from palm_trainer.errors import DataError

NO_DASH = "line without '- ' before the example (passed over)"
SYNONYM = "synonym given with an entity (passed over)"
MORE_ENTITIES = "further entity on the same words (passed over)"
SECTIONS = ("synonym", "regex", "lookup")

_ENTITY = re.compile(
    r"\[(?P<value>[^\]]+?)\](?:\((?P<name>[^):]+)(?::(?P<synonym>[^)]*))?\)|(?P<json>\{[^}]*\})|\[(?P<list>\{.*?\})\])"
)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the `nlu` section of a file, or of all `*.yml` and `*.yaml` files of a directory.

    Raises:
        DataError: not YAML, no `nlu` list, an intent without examples, an annotation that cannot be read.
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
    """All YAML files of a directory and those below it."""
    return sorted(file for file in folder.rglob("*") if file.suffix in (".yml", ".yaml"))


def holds_examples(file: Path) -> bool:
    """Whether a YAML file has an `nlu` section; the rest of a Rasa project (domain, rules) has none."""
    return re.search(rb"^nlu\s*:", file.read_bytes(), re.MULTILINE) is not None


def _compose(file: Path, defects: Defects) -> yaml.Node | None:
    """The node tree, which knows its lines; composing constructs no objects and resolves no types."""
    try:
        node: yaml.Node | None = yaml.compose(read_text(file, defects), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line, column = (error.problem_mark.line + 1, error.problem_mark.column + 1) if error.problem_mark else (1, 1)
        raise DataError(f"{file}:{line}:{column}: not YAML: {error.problem}; check indentation and quotes") from None
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not YAML: {str(error).splitlines()[0]}; remove control characters") from None
    return node


def _mapping(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _item(item: yaml.Node, file: Path, defects: Defects) -> Iterator[Example]:
    where = f"{file}:{item.start_mark.line + 1}"
    keys = _mapping(item) if isinstance(item, yaml.MappingNode) else {}
    for section in SECTIONS:
        if section in keys:
            defects.add(f"{section} section (passed over)", where)
            return
    intent, examples = keys.get("intent"), keys.get("examples")
    if not isinstance(intent, yaml.ScalarNode) or not intent.value or examples is None:
        raise DataError(f"{where}: an item without `intent` and `examples`; each needs both")
    for text, line in _examples(examples, file, defects):
        plain, spans = _read_entities(text, f"{file}:{line}", defects)
        if not plain.strip():
            raise DataError(f"{file}:{line}: an empty example; remove it")
        yield Example(plain, {"intent": intent.value, "slots": spans}, source=f"{file}:{line}")


def _examples(node: yaml.Node, file: Path, defects: Defects) -> Iterator[tuple[str, int]]:
    """Annotated texts with their lines, from a block of `- text` lines or a list of `text:` items."""
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
    first = node.start_mark.line + (2 if node.style in ("|", ">") else 1)
    for number, line in enumerate(lines(node.value), first):
        if line.lstrip().startswith("-"):
            yield line.lstrip()[1:].strip(), number
        elif line.strip():
            defects.add(NO_DASH, f"{file}:{number}")


def _read_entities(text: str, where: str, defects: Defects) -> tuple[str, tuple[LabelledSpan, ...]]:
    """The text without its annotations, and their spans."""
    plain, spans, position, length = [], [], 0, 0
    for match in _ENTITY.finditer(text):
        before, value = text[position : match.start()], match["value"]
        start = length + len(before)
        plain += [before, value]
        position, length = match.end(), start + len(value)
        entity = _entity(match, where, defects)
        spans.append(LabelledSpan(start, length, entity["entity"], entity.get("role", ""), entity.get("group", "")))
    return "".join([*plain, text[position:]]), tuple(spans)


def _entity(match: re.Match[str], where: str, defects: Defects) -> dict[str, str]:
    if match["name"]:
        if match["synonym"] is not None:
            defects.add(SYNONYM, where)
        return {"entity": match["name"].strip()}
    try:
        entities = json.loads(f"[{match['list'] or match['json']}]")
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: annotation {match[0]!r} is not JSON: {error.msg}; use double quotes") from None
    entity = entities[0]
    if not isinstance(entity.get("entity"), str) or not entity["entity"]:
        raise DataError(f'{where}: annotation {match[0]!r} names no entity; add "entity": "NAME"')
    if len(entities) > 1:
        defects.add(MORE_ENTITIES, where, len(entities) - 1)
    if "value" in entity:
        defects.add(SYNONYM, where)
    return {key: str(value) for key, value in entity.items()}
