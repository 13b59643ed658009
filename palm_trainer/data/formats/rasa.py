"""Rasa's NLU training data, YAML 2.0 and 3.1 or the old Markdown and JSON, a file or a directory of files.

Fields: `intent`, `slots`.

Entities: `[value](name)`, `[value](name:synonym)`, `[value]{"entity": ..., "role": ..., "group":
..., "value": ...}`, and a list of such objects, of which the first counts. What values stand for (synonyms in annotations,
the sections synonym, regex and lookup) is kept for the answers of a server. Other keys and sections (stories) are counted as
passed over. Every scalar stays a string: an intent may be called `yes`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from palm_trainer.data.example import Example
from palm_trainer.data.formats.rasa_annotations import MORE_ENTITIES, read_entities
from palm_trainer.data.formats.rasa_json import ROOT, parse_json_file
from palm_trainer.data.formats.rasa_markdown import is_markdown, parse_markdown
from palm_trainer.data.formats.rasa_values import EMPTY_SECTION, SECTIONS, add_section_item
from palm_trainer.data.formats.split_names import walk_files
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text, split_lines
from palm_trainer.data.formats.yaml_nodes import compose_yaml, scalar_values
from palm_trainer.errors import DataError

__all__ = ["FOLDED", "MORE_ENTITIES", "NO_DASH", "NO_NLU", "parse", "rasa_files"]

NO_DASH = "line without '- ' before the example (passed over)"
_YAML = (".yml", ".yaml")
_MARKDOWN = (".md", ".markdown")
_JSON = ".json"
NO_NLU = "file without an `nlu` list (passed over)"
_DIALOGUES = ("stories", "rules", "responses")
"""Sections of other files that are told by name. The rest of a project configures it."""
REPEATED_BY_ALIAS = "item, block or text that an alias repeats (read again)"
_MOST_REPEATS = 10
_REPEATS_ALLOWED = 100_000
"""Characters that aliases of a small file may repeat."""
_NODE_SIZE = 200
"""Characters that cost as much as an item, block or text beside its own characters."""
FOLDED = "line with '- ' that its quotes join to the line above (read as one example; write `examples: |`)"


@dataclass
class _NluFile:
    """A YAML file while it is read.

    Args:
        path: the file.
        defects: tally of repaired defects.
    """

    path: Path
    defects: Defects
    _read_nodes: dict[int, yaml.Node] = field(default_factory=dict)
    _repeated_size: int = 0

    @cached_property
    def _size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def lines(self) -> list[str]:
        """Lines as they are written."""
        return split_lines(read_text(self.path))

    def place(self, node: yaml.Node) -> str:
        """Return `file:line` of the begin of a node."""
        return f"{self.path}:{node.start_mark.line + 1}"

    def count_repeats(self, node: yaml.Node, size: int) -> None:
        """Tell a node that an alias repeats. Few aliases can stand for more text than any memory holds.

        Args:
            node: node that is about to be read.
            size: characters or items in it.

        Raises:
            DataError: what aliases repeat costs more than ten times the file.
        """
        if id(node) not in self._read_nodes:
            self._read_nodes[id(node)] = node
            return
        self._repeated_size += size + _NODE_SIZE
        self.defects.add(REPEATED_BY_ALIAS, self.place(node))
        if self._repeated_size > max(_REPEATS_ALLOWED, _MOST_REPEATS * self._size):
            raise DataError(
                f"{self.place(node)}: aliases repeat more than {_MOST_REPEATS} times the content of the file; write it out"
            )


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of the `nlu` section of a file, or of all YAML and Markdown files of a directory.

    Args:
        path: file or directory to read.
        options: not used.
        defects: tally of repaired defects.

    Raises:
        DataError: a file is not YAML or has no `nlu` list, a key stands twice, an intent has no
            examples, or an annotation is malformed.
    """
    files = rasa_files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no .yml or .yaml file in this directory; name the NLU file")
    for file in files:
        if file.suffix.lower() == _JSON:
            yield from parse_json_file(file, defects)
        elif _is_markdown_file(file):
            yield from parse_markdown(file, defects)
        else:
            yield from _yaml_examples(file, defects, must_hold_examples=not path.is_dir())


def _yaml_examples(file: Path, defects: Defects, *, must_hold_examples: bool) -> Iterator[Example]:
    """Yield the examples of the `nlu` section of a YAML file."""
    root = compose_yaml(file, defects)
    sections = scalar_values(root) if isinstance(root, yaml.MappingNode) else {}
    nlu = sections.get("nlu")
    _note_sections(file, sections, defects)
    if isinstance(nlu, yaml.SequenceNode):
        nlu_file = _NluFile(file, defects)
        for item in nlu.value:
            yield from _item(item, nlu_file)
    elif must_hold_examples or (nlu is not None and nlu.value):
        raise DataError(f"{file}:1: no `nlu:` list; Rasa's training data has one (YAML 2.0 or 3.1)")
    else:
        defects.add(NO_NLU, f"{file}:1")


def _note_sections(file: Path, sections: dict[str, yaml.Node], defects: Defects) -> None:
    """Count the entries of sections that are not read: all beside `nlu`, else those that hold texts of users or answers."""
    for name, node in sections.items():
        is_told = "nlu" in sections or name in _DIALOGUES
        if not is_told or name in ("nlu", "version") or not node.value:
            continue
        count = len(node.value) if isinstance(node, yaml.CollectionNode) else 1
        defects.add(f"entry of '{name}' (passed over)", f"{file}:{node.start_mark.line + 1}", count)


def _note_keys(node: yaml.Node, read: Sequence[str], owner: str, file: "_NluFile") -> None:
    """Count the keys of an item that are not read."""
    if isinstance(node, yaml.MappingNode):
        for name, value in scalar_values(node).items():
            if name not in read:
                file.defects.add(f"'{name}' of an {owner} (passed over)", file.place(value))


def rasa_files(folder: Path) -> list[Path]:
    """List all YAML files of a directory and its subdirectories, and the Markdown and JSON files with training data.

    Hidden directories and those that programs fill (node_modules, models) are passed over.
    """
    files = []
    for file in walk_files(folder):
        if file.suffix in _YAML or (file.suffix in (*_MARKDOWN, _JSON) and holds_examples(file)):
            files.append(file)
    return files


def holds_examples(file: Path) -> bool:
    """Return True if a file holds training data.

    Other files of a Rasa project (domain, rules) do not, nor do pipes and sockets, which would be waited for.
    """
    if not file.is_file():
        return False
    if file.suffix == _JSON:
        return f'"{ROOT}"'.encode() in file.read_bytes()
    if file.suffix not in _YAML:
        return _is_markdown_file(file)
    return re.search(rb"^nlu\s*:", file.read_bytes(), re.MULTILINE) is not None


def _is_markdown_file(file: Path) -> bool:
    """Return True if a file that is not called YAML holds Rasa's Markdown."""
    if file.suffix in _YAML:
        return False
    try:
        return is_markdown(read_text(file))
    except DataError:  # no text, which the reader of YAML says
        return False


def _item(item: yaml.Node, file: _NluFile) -> Iterator[Example]:
    """Yield the examples of one item of the `nlu` list."""
    source = file.place(item)
    if isinstance(item, yaml.MappingNode):
        file.count_repeats(item, len(item.value))
    keys = scalar_values(item) if isinstance(item, yaml.MappingNode) else {}
    for section in SECTIONS:
        if section in keys:
            _read_section(section, keys, source, file)
            return
    intent = keys.get("intent")
    examples = keys.get("examples")
    if not isinstance(intent, yaml.ScalarNode) or not intent.value or examples is None:
        raise DataError(f"{source}: an item without `intent` and `examples`; each needs both")
    _note_keys(item, ("intent", "examples"), "intent", file)
    for text, line in _examples(examples, file):
        source = f"{file.path}:{line}"
        plain_text, spans = read_entities(text, source, file.defects)
        if not plain_text.strip():
            raise DataError(f"{source}: an empty example; remove it")
        yield Example(plain_text, {"intent": intent.value, "slots": spans}, source=source)


def _read_section(section: str, keys: Mapping[str, yaml.Node], source: str, file: _NluFile) -> None:
    """Read a section of values.

    Args:
        section: its kind, of `SECTIONS`.
        keys: its content.
        source: place of the section, for messages.
        file: file of the section.

    Raises:
        DataError: a synonym stands for two values, or the examples are no list.
    """
    name = keys[section]
    examples = keys.get("examples")
    if not isinstance(name, yaml.ScalarNode) or not name.value.strip() or examples is None:
        file.defects.add(EMPTY_SECTION.format(section), source)
        return
    for text, line in _examples(examples, file):
        add_section_item(section, name.value.strip(), text, f"{file.path}:{line}", file.defects)


def _examples(node: yaml.Node, file: _NluFile) -> Iterator[tuple[str, int]]:
    """Yield annotated texts with their line numbers, from a block of `- text` lines or a list of `text:` items."""
    file.count_repeats(node, len(node.value))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            file.count_repeats(item, len(item.value))
            text = scalar_values(item).get("text") if isinstance(item, yaml.MappingNode) else item
            if not isinstance(text, yaml.ScalarNode):
                raise DataError(f"{file.place(item)}: an example without `text`; write `- text: ...`")
            if text is not item:
                file.count_repeats(text, len(text.value))
            _note_keys(item, ("text",), "example", file)
            yield text.value.strip(), text.start_mark.line + 1
        return
    if not isinstance(node, yaml.ScalarNode):
        raise DataError(f"{file.place(node)}: `examples` is neither a block of `- text` lines nor a list")
    _check_folding(node, file)
    # A literal block begins on the line after its `|`.
    first_line = node.start_mark.line + (2 if node.style in ("|", ">") else 1)
    for number, line in enumerate(split_lines(node.value), first_line):
        if line.lstrip().startswith("-"):
            yield line.lstrip()[1:].strip(), number
        elif line.strip():
            file.defects.add(NO_DASH, f"{file.path}:{number}")


def _check_folding(node: yaml.ScalarNode, file: _NluFile) -> None:
    """Check that YAML has joined no examples of a block that is not literal.

    Raises:
        DataError: a folded or plain block has joined some.
    """
    if node.style == "|":
        return
    marked_lines = 0
    for line in split_lines(node.value):
        marked_lines += line.lstrip().startswith("-")
    written_marks = 0
    for line in _written_lines(node, file):
        written_marks += line.lstrip().startswith("-")
    source = file.place(node)
    if written_marks <= marked_lines:
        return
    if node.style in ("'", '"'):
        file.defects.add(FOLDED, source, written_marks - marked_lines)
        return
    raise DataError(
        f"{source}: `examples` must be a block that keeps its lines, got one that YAML folds into "
        f"{marked_lines} of {written_marks} examples. Write `examples: |`."
    )


def _written_lines(node: yaml.ScalarNode, file: _NluFile) -> list[str]:
    """Return the lines of a scalar as they are written, without quotes and the indicator of a block."""
    first = node.start_mark.line
    if node.style != ">":
        lines = file.lines[first : node.end_mark.line + 1]
        lines[-1] = lines[-1][: node.end_mark.column]
        lines[0] = lines[0][node.start_mark.column + (node.style in ("'", '"')) :]
        return lines
    lines = []
    indent = 0
    for line in file.lines[first + 1 :]:
        content = line.lstrip(" ")
        if content and not indent:
            indent = len(line) - len(content)
        if content and len(line) - len(content) < indent:
            break
        lines.append(line)
    return lines
