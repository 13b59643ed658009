"""Text of a CoNLL sentence: its tokens joined, or its own text where the tokens spell it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from palm_trainer.data.formats.text_files import Defects, align_words, join_words

NOT_SPELLED = "comment '# text' that its tokens do not spell (the joined tokens are used)"
UNUSED_MULTI_WORD = "multi-word token without a '# text' that holds it (its words are used)"
SEVERAL_SPANS = "word of a multi-word token whose tag differs from that of the first (passed over)"

Words: TypeAlias = tuple[Sequence[str], Sequence[str], Sequence[str]]
"""Tokens of a sentence, and tag and place of each."""


@dataclass(frozen=True, slots=True)
class MultiWord:
    """A token that stands for several words, such as `im` for `in dem`.

    Args:
        first: index of its first word.
        count: number of its words.
        form: how the text writes it.
    """

    first: int
    count: int
    form: str


def sentence_text(
    words: Words, multi_words: Sequence[MultiWord], written: tuple[str, str], joiner: str, defects: Defects
) -> tuple[str, tuple[tuple[int, int], ...], Sequence[str], Sequence[str]]:
    """Return the text of a sentence.

    Args:
        words: tokens, tags and places.
        multi_words: tokens that stand for several words.
        written: text of the comment `# text` and its place. Empty: there is none.
        joiner: between tokens.
        defects: tally of what is passed over.

    Returns:
        Text, range of each token, and tag and place of each token.
    """
    tokens, tags, sources = words
    text, text_source = written
    if text:
        ranges = align_words(text, tokens)
        if ranges is not None:
            return text, ranges, tags, sources
        merged_defects = Defects()
        merged_tokens, merged_tags, merged_sources = _merge(words, multi_words, merged_defects)
        ranges = align_words(text, merged_tokens)
        if ranges is not None:
            for defect in merged_defects:
                defects.add(defect.kind, defect.first, defect.count)
            return text, ranges, merged_tags, merged_sources
        defects.add(NOT_SPELLED, text_source)
    if multi_words:
        defects.add(UNUSED_MULTI_WORD, sources[min(multi_words[0].first, len(sources) - 1)], len(multi_words))
    text, ranges = join_words(tokens, joiner)
    return text, ranges, tags, sources


def _merge(words: Words, multi_words: Sequence[MultiWord], defects: Defects) -> Words:
    """Put each multi-word token in the place of its words. It has the first tag of its words that is not `O`."""
    tokens, tags, sources = words
    merged_tokens: list[str] = []
    merged_tags: list[str] = []
    merged_sources: list[str] = []
    position = 0
    for multi_word in [*multi_words, MultiWord(len(tokens), 0, "")]:
        if multi_word.first < position or multi_word.first + multi_word.count > len(tokens):
            continue
        merged_tokens += tokens[position : multi_word.first]
        merged_tags += tags[position : multi_word.first]
        merged_sources += sources[position : multi_word.first]
        position = multi_word.first + multi_word.count
        if multi_word.count == 0:
            break
        inner_tags = [tag for tag in tags[multi_word.first : position] if tag != "O"]
        merged_tokens.append(multi_word.form)
        merged_tags.append(_merged_tag(inner_tags, sources[multi_word.first], defects))
        merged_sources.append(sources[multi_word.first])
    return merged_tokens, merged_tags, merged_sources


def _merged_tag(tags: Sequence[str], source: str, defects: Defects) -> str:
    """Return the tag of a multi-word token from the tags of its words that are not `O`."""
    if not tags:
        return "O"
    first = tags[0]
    last = first
    for tag in tags[1:]:
        if tag[2:] != first[2:] or tag[0] in "BSU":
            defects.add(SEVERAL_SPANS, source)
            break
        last = tag
    if last[0] not in "EL":
        return first
    single_prefix = {"E": "S", "L": "U"}[last[0]]
    return single_prefix + last[1:] if first[0] == "B" else last
