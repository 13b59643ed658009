"""Writes the bundled Chinese assistant corpus (`assistant_zh/*.jsonl`) from its hand-written patterns and value lists.

Run `python examples/data/make_assistant_zh.py [FOLDER]`. The same sources give the same bytes. Needs only the
standard library.
The syntax of the two source files is explained at their tops.
"""

import itertools
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

HOME = Path(__file__).parent / "assistant_zh"
SEED = 2024
ROWS_PER_INTENT = {"train": 220, "dev": 17, "test": 24}
"""Utterances of one intent in one split, at most: patterns without slots run out earlier."""
ROUNDS = 40
"""How often each pattern of an intent is tried before the intent is left short."""
HELD_OUT_SHARE = 0.5
"""How often dev and test draw a value that training never shows, for lists that hold some back."""

Sections: TypeAlias = dict[tuple[str, str], list[str]]
Row: TypeAlias = dict[str, Any]

CHOICE = re.compile(r"\[([^\[\]]*)\]")
PLACEHOLDER = re.compile(r"\{(?P<label>\w+)(?::(?P<list>\w+))?\}|<(?P<filler>\w+)>")


def read_sections(path: Path) -> Sections:
    """Lines by (name, split) of a file with `# NAME SPLIT` headers and `;` comments. ValueError if one repeats."""
    sections: Sections = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            name, split = line[1:].split()
            if (name, split) in sections:
                raise ValueError(f"{path.name}: section '{name} {split}' occurs twice; merge the two")
            lines = sections[name, split] = []
        elif line and not line.startswith(";"):
            lines.append(line)
    return sections


def expand(text: str) -> Iterator[str]:
    """Every way to make the choices `[a|b]` of a text."""
    choice = CHOICE.search(text)
    if choice is None:
        yield text
        return
    for option in choice[1].split("|"):
        yield from expand(text[: choice.start()] + option + text[choice.end() :])


def read_values(path: Path) -> Sections:
    """Values by (list, split), choices expanded."""
    return {
        key: [value.replace("-", "") for line in lines for item in line.split("、") for value in expand(item)]
        for key, lines in read_sections(path).items()
    }


def bare(text: str) -> str:
    """The text without punctuation and blanks, in lower case: two utterances that differ in these only are the same."""
    return "".join(c for c in text.lower() if c.isalnum() or c in "{_}%&℃")


def phrasings(pattern: str) -> set[str]:
    """What a pattern can say, slots shown as their label; fillers and punctuation do not count."""
    skeleton = PLACEHOLDER.sub(lambda match: f"{{{match['label']}}}" if match["label"] else "", pattern)
    return {bare(text) for text in expand(skeleton)}


class Draw:
    """Deals the values of each list like a shuffled deck, so that all of them occur about equally often."""

    def __init__(self, values: Mapping[tuple[str, str], list[str]], rng: random.Random) -> None:
        self._values = values
        self._rng = rng
        self._decks: Sections = {}

    def __call__(self, name: str, split: str, used: Iterable[str]) -> str:
        """A value of list `name` for an utterance of `split` that already holds the values `used`."""
        if (name, "train") not in self._values:
            raise ValueError(f"no list '{name} train' in values.txt; add it, or name another: {{label:list}}")
        held_out = (name, split) in self._values and split != "train"
        key = (name, split if held_out and self._rng.random() < HELD_OUT_SHARE else "train")
        while True:
            deck = self._decks.setdefault(key, [])
            if not deck:
                deck.extend(self._values[key])
                self._rng.shuffle(deck)
            value = deck.pop()
            if not value or value not in used:
                return value


def realize(pattern: str, intent: str, split: str, draw: Draw, rng: random.Random) -> Row:
    """One utterance of a pattern, with the spans of its slots (half-open, in code points)."""
    pattern = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), pattern)
    text, done, slots, used = "", 0, [], set[str]()
    for match in PLACEHOLDER.finditer(pattern):
        text += pattern[done : match.start()]
        value = draw(match["list"] or match["label"] or match["filler"], split, used)
        if match["label"]:
            slots.append({"start": len(text), "end": len(text) + len(value), "label": match["label"]})
            used.add(value)
        text += value
        done = match.end()
    return {"text": text + pattern[done:], "intent": intent, "slots": slots}


def make(patterns: Sections, values: Sections) -> dict[str, list[Row]]:
    """The rows of each split. Raises ValueError when a phrasing or a held-out value is in two splits."""
    check_phrasings(patterns)
    rng = random.Random(SEED)
    draw = Draw(values, rng)
    seen: set[str] = set()
    corpus: dict[str, list[Row]] = {split: [] for split in ROWS_PER_INTENT}
    for (intent, split), lines in patterns.items():
        made = 0
        for pattern in itertools.chain.from_iterable(rng.sample(lines, len(lines)) for _ in range(ROUNDS)):
            row = realize(pattern, intent, split, draw, rng)
            if bare(row["text"]) not in seen:
                seen.add(bare(row["text"]))
                corpus[split].append(row)
                made += 1
            if made == ROWS_PER_INTENT[split]:
                break
    for rows in corpus.values():
        rng.shuffle(rows)
    check_values(values, corpus["train"])
    return corpus


def check_phrasings(patterns: Sections) -> None:
    """Raises ValueError when two splits share a phrasing."""
    owner: dict[str, str] = {}
    shared = [
        f"{phrasing} ({owner[phrasing]}, {intent} {split})"
        for (intent, split), lines in patterns.items()
        for line in lines
        for phrasing in sorted(phrasings(line))
        if owner.setdefault(phrasing, split) != split
    ]
    if shared:
        raise ValueError(f"phrasings in two splits, reword one of each: {'; '.join(shared)}")


def check_values(values: Sections, train: list[Row]) -> None:
    """Raises ValueError when a held-out value occurs anywhere in the training texts."""
    texts = "\n".join(row["text"] for row in train)
    leaked = [
        f"{value} ({name} {split})"
        for (name, split), held_out in values.items()
        for value in held_out
        if split != "train" and value in texts
    ]
    if leaked:
        raise ValueError(f"held-out values that occur in train, replace them: {', '.join(leaked)}")


def main(folder: Path = HOME) -> None:
    """Writes train.jsonl, dev.jsonl and test.jsonl into a folder."""
    corpus = make(read_sections(HOME / "source" / "patterns.txt"), read_values(HOME / "source" / "values.txt"))
    for split, rows in corpus.items():
        lines = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
