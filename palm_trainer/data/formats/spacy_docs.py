"""spaCy: documents in a file `*.spacy` (`DocBin`), as `spacy train` reads and `prodigy data-to-spacy` writes them

Fields: `slots` (`doc.ents`), `label` (those of `doc.cats` with a score of at least 0.5).

Described at https://spacy.io/api/docbin. Needs `spacy`. The words are the tokens that are no blanks. Span groups, tags, lemmas and parses are
counted as passed over.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from palm_serve.system.installation import how_to_install
from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.text_fields import choose_main_field, class_fields, select_spans, span_fields
from palm_trainer.data.formats.text_files import Defects, FormatOptions, check_readable
from palm_trainer.errors import DataError

SUFFIX = ".spacy"
UNSURE = "score of a class that is neither 0 nor 1 (read as 0 below 0.5, else as 1)"
_MOST_BYTES = 512 << 20
_OTHER_ANNOTATIONS = ("TAG", "POS", "MORPH", "LEMMA", "DEP")
_FAULTS = (zlib.error, struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError)
"""What spaCy raises for bytes that it did not write."""


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each document.

    Args:
        path: file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: spaCy is not installed, or the file is not one that it wrote.
    """
    check_readable(path)
    tokens, vocab = _import_spacy(path)
    data = path.read_bytes()
    try:
        size = len(zlib.decompressobj().decompress(data, _MOST_BYTES + 1))
        if size > _MOST_BYTES:
            raise DataError(f"{path}: must have at most {_MOST_BYTES >> 20} MiB of documents. Divide it.")
        documents = list(tokens.DocBin().from_bytes(data).get_docs(vocab.Vocab()))
    except _FAULTS as error:
        raise DataError(f"{path}: not documents of spaCy, or broken ones: {error}; write it again") from None
    for number, document in enumerate(documents, 1):
        yield _example(document, f"{path}: document {number}", defects)


def _import_spacy(path: object) -> tuple[Any, Any]:
    """Import `spacy.tokens` and `spacy.vocab`. Raises DataError if spaCy is not installed."""
    try:
        import spacy.tokens
        import spacy.vocab
    except ImportError:
        raise DataError(
            f"{path}: format 'spacy' needs the package spacy; to install it, {how_to_install('spacy')}"
        ) from None
    return spacy.tokens, spacy.vocab


def _example(document: Any, source: str, defects: Defects) -> Example:
    text = document.text
    if not text.strip():
        raise DataError(f"{source}: a document without text; remove it")
    for name in _OTHER_ANNOTATIONS:
        if document.has_annotation(name):
            defects.add(f"annotation {name} of a document (passed over)", source)
    for name, group in document.spans.items():
        if len(group):
            defects.add(f"spans of the group '{name}' (passed over)", source, len(group))
    fields: dict[str, FieldValue] = {}
    if document.has_annotation("ENT_IOB"):
        spans = []
        for entity in document.ents:
            spans.append(LabelledSpan(entity.start_char, entity.end_char, entity.label_))
        fields["slots"] = tuple(spans)
    if document.cats:
        names = []
        for name, score in document.cats.items():
            if score not in (0, 1):
                defects.add(UNSURE, source)
            if score >= 0.5:
                names.append(name)
        fields["label"] = names[0] if len(names) == 1 else tuple(names)
    words = []
    for token in document:
        if not token.is_space:
            words.append((token.idx, token.idx + len(token)))
    return Example(text, fields, words=tuple(words), source=source)


def write_spacy(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write documents with entities and classes, divided into tokens at blanks, words and the ends of spans.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.

    Raises:
        DataError: spaCy is not installed.
    """
    tokens, vocab = _import_spacy(path)
    slots = choose_main_field(span_fields(examples), "slots")
    label = choose_main_field(class_fields(examples), "label")
    vocabulary = vocab.Vocab()
    documents = tokens.DocBin(attrs=["ORTH", "SPACY", "ENT_IOB", "ENT_TYPE"])
    for example in examples:
        spans = select_spans(example.fields.get(slots, ()))
        words, blanks = _tokens(example, spans)
        document = tokens.Doc(vocabulary, words=words, spaces=blanks)
        if slots in example.fields:
            document.set_ents([document.char_span(span.start, span.end, label=span.label) for span in spans])
        value = example.fields.get(label, ())
        for name in (value,) if isinstance(value, str) else value:
            document.cats[name] = 1.0
        documents.add(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(documents.to_bytes())


def _tokens(example: Example, spans: Sequence[LabelledSpan]) -> tuple[list[str], list[bool]]:
    """Return the tokens of a text, and whether a blank follows each. Other blanks are tokens of their own."""
    text = example.text
    bounds = {0, len(text)}
    for start, end in example.words or ():
        bounds |= {start, end}
    for span in spans:
        bounds |= {span.start, span.end}
    for position in range(1, len(text)):
        if text[position].isspace() != text[position - 1].isspace():
            bounds.add(position)
    words: list[str] = []
    blanks: list[bool] = []
    for start, end in pairwise(sorted(bounds)):
        piece = text[start:end]
        if piece.startswith(" ") and words and not blanks[-1] and not _begins(spans, start):
            blanks[-1] = True
            piece = piece[1:]
        if piece:
            words.append(piece)
            blanks.append(False)
    return words, blanks


def _begins(spans: Sequence[LabelledSpan], position: int) -> bool:
    return any(span.start == position for span in spans)
