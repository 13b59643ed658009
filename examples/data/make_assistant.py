"""Writes the bundled assistant sample: `python examples/data/make_assistant.py`.

The phrases and the slot values stand in `assistant_phrases/`; this script expands them, with a fixed seed, to
`assistant/{train,dev,test}.jsonl`. The files are the same, byte for byte, on every machine.

A phrase is one line below its `[intent]`:

    (Play|Put on) {song} by {artist}      one alternative is taken; an empty one is allowed; they nest
    {date:rel}                            label `date`, value from the list `date_rel`
    {date=May}                            label `date`, value `May`
    $when                                 a macro of values.toml
    a~ {cuisine} place                    "a" or "an", or nothing before a value with an article of its own
"""

import argparse
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

HERE = Path(__file__).parent
SEED = 2024
ROWS_PER_INTENT = {"train": 120, "dev": 15, "test": 26}
ROUNDS = 60  # passes over the phrases of an intent; phrases without slots give nothing new after a few

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)(?::(\w+)|=([^}]*))?\}")
_AN = re.compile(r"(?!one\b|uni|use|euro)[aeiou]|hour|8|11\b|18\b", re.IGNORECASE)
_ARTICLE = re.compile(r"(an?|the)\b", re.IGNORECASE)


class Segment(NamedTuple):
    """A piece of an utterance: a slot value, or the words between two of them (label None)."""

    text: str
    label: str | None = None


@dataclass(frozen=True)
class Values:
    """values.toml: the lists of slot values, which list a label takes, and the macros."""

    lists: dict[str, dict[str, list[str]]]
    defaults: dict[str, str]
    macros: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Values":
        """Reads the file; each list is one string, its values separated by semicolons."""
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        defaults, macros = raw.pop("defaults"), raw.pop("macros")
        lists = {
            name: {split: [value.strip() for value in values.split(";")] for split, values in table.items()}
            for name, table in raw.items()
        }
        return cls(lists, defaults, macros)

    def of(self, label: str, kind: str, split: str) -> list[str]:
        """The values that a split may use for `{label}` or `{label:kind}`."""
        table = self.lists[f"{label}_{kind}" if kind else self.defaults.get(label, label)]
        return table.get("all") or table[split]


def read_phrases(path: Path) -> dict[str, list[str]]:
    """Reads the phrases of a split by intent."""
    phrases: dict[str, list[str]] = {}
    intent = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            intent = line[1:-1]
            phrases[intent] = []
        elif line and not line.startswith("#"):
            phrases[intent].append(line)
    return phrases


def _choose(text: str, rng: Random) -> str:
    """Takes one alternative of each group, the innermost first."""
    while match := _CHOICE.search(text):
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    return text


def fill(phrase: str, values: Values, split: str, rng: Random) -> list[Segment]:
    """One phrase with its alternatives taken and its slots filled, no value twice."""
    for _ in range(2):  # a macro may name another one
        phrase = re.sub(r"\$(\w+)", lambda match: values.macros[match[1]], phrase)
    phrase = _choose(phrase, rng)
    segments: list[Segment] = []
    used: set[str] = set()
    at = 0
    for match in _SLOT.finditer(phrase):
        label, kind, literal = match.groups()
        value = literal
        while value is None or (literal is None and value in used):
            value = _choose(rng.choice(values.of(label, kind, split)), rng).strip()
        used.add(value)
        segments += [Segment(phrase[at : match.start()]), Segment(value, label)]
        at = match.end()
    segments.append(Segment(phrase[at:]))
    return [segment for segment in _articles(segments) if segment.text]


def _articles(segments: list[Segment]) -> Iterator[Segment]:
    """Fits the words to the values: a~, no "the The", no "p.m.."; and no blank before a mark where an alternative was empty."""
    for i, (text, label) in enumerate(segments):
        while label is None and "a~ " in text:
            before, _, after = text.partition("a~ ")
            following = after or segments[i + 1].text
            text = before + ("" if _ARTICLE.match(following) else "an " if _AN.match(following) else "a ") + after
        if label is None and text.endswith(" the ") and segments[i + 1].text.startswith("The "):
            text = text.removesuffix("the ")
        if label is None and text.startswith(".") and i and segments[i - 1].text.endswith("."):
            text = text[1:]
        yield Segment(re.sub(r" (?=[?!.,])", "", text) if label is None else text, label)


def _typo(word: str, rng: Random) -> str:
    """The word with two letters swapped, one dropped or one doubled."""
    i = rng.randrange(1, len(word) - 2)
    return rng.choice(
        (word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[: i + 1] + word[i:])
    )


def style(segments: list[Segment], rng: Random) -> list[Segment]:
    """As written, as typed into a chat, or as speech recognition writes; sometimes with a typo outside the values."""
    style = rng.choices(("written", "chat", "speech"), (45, 25, 30))[0]
    if style == "written":
        first, *rest = segments
        segments = [Segment(first.text[0].upper() + first.text[1:], first.label), *rest]
    elif segments[-1].label is None:
        marks = ".!?" if style == "speech" else "."
        segments = [*segments[:-1], Segment(segments[-1].text.rstrip(marks))]
    if style == "speech":
        segments = [Segment(t.lower() if label else re.sub(r"[,;:] ", " ", t.lower()), label) for t, label in segments]
    if rng.random() < 0.04:
        words = [(i, m) for i, s in enumerate(segments) if not s.label for m in re.finditer(r"\b[a-z]{5,}\b", s.text)]
        if words:
            i, match = rng.choice(words)
            text = segments[i].text
            segments[i] = Segment(text[: match.start()] + _typo(match[0], rng) + text[match.end() :])
    return [segment for segment in segments if segment.text]


def as_row(segments: list[Segment], intent: str) -> dict[str, Any]:
    """Returns the row of an utterance."""
    slots = []
    text = ""
    for part, label in segments:
        if label is not None:
            slots.append({"start": len(text), "end": len(text) + len(part), "label": label})
        text += part
    return {"text": text.rstrip(), "intent": intent, "slots": slots}


def _rows(intent: str, phrases: list[str], values: Values, split: str, seen: set[str]) -> list[dict[str, Any]]:
    """The rows of one intent: passes over its phrases until there are enough; `seen` holds the texts of all splits."""
    rng = Random(f"{SEED}/{split}/{intent}")  # of its own, so that a changed intent leaves the others alone
    rows: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        for phrase in rng.sample(phrases, len(phrases)):
            row = as_row(style(fill(phrase, values, split, rng), rng), intent)
            key = re.sub(r"\W+", " ", row["text"].casefold()).strip()
            if key in seen:
                continue
            seen.add(key)
            rows.append(row)
            if len(rows) == ROWS_PER_INTENT[split]:
                return rows
    return rows


def build(source: Path = HERE / "assistant_phrases") -> dict[str, str]:
    """The contents of the three files by file name."""
    values = Values.read(source / "values.toml")
    seen: set[str] = set()
    files = {}
    for split in ROWS_PER_INTENT:
        phrases = read_phrases(source / f"{split}.txt")
        rows = [row for intent in phrases for row in _rows(intent, phrases[intent], values, split, seen)]
        Random(f"{SEED}/{split}").shuffle(rows)
        files[f"{split}.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return files


def main() -> None:
    """Command line: writes the files."""
    parser = argparse.ArgumentParser(description="Write the bundled assistant sample.")
    parser.add_argument("--output", type=Path, default=HERE / "assistant", help="folder for the three files")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, text in build().items():
        (output / name).write_bytes(text.encode())
        print(f"{output / name}: {text.count(chr(10))} rows")


if __name__ == "__main__":
    main()
