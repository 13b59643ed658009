"""Writes the bundled answers to questions: `python examples/data/make_dialogues.py`.

The questions and answers stand in `assistant_dialogue_phrases/`, the values of slots and the first turns are those of the
assistant sample. This script expands them, with a fixed seed, to `assistant_dialogues/{train,dev,test}.jsonl`. The files are
the same, byte for byte, on every machine.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from make_assistant import HERE, SEED, Values, as_row, fill, style

ROWS_PER_QUESTION = {"train": 30, "dev": 5, "test": 12}
ROUNDS = 60
"""Passes over the answers to a question."""
FIRST_TURN_SHARE = 0.8
"""Share of the rows whose context begins with what the user said first."""
REQUESTED_SHARE = 0.5
"""Share of the rows that name the slot that was asked for."""


class Exchange(NamedTuple):
    """Questions of the system for one slot of one intent, and answers to them."""

    intent: str
    slot: str
    questions: list[str]
    answers: list[str]


def read_exchanges(path: Path) -> list[Exchange]:
    """Read the questions and answers of a split."""
    exchanges: list[Exchange] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            intent, slot = line[1:-1].split()
            exchanges.append(Exchange(intent, slot, [], []))
        elif line.startswith("?"):
            exchanges[-1].questions.append(line.removeprefix("?").strip())
        elif line and not line.startswith("#"):
            exchanges[-1].answers.append(line)
    return exchanges


def read_first_turns(split: str) -> dict[str, list[dict[str, Any]]]:
    """Read the utterances of the assistant sample by intent."""
    rows = defaultdict(list)
    for line in (HERE / "assistant" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["intent"]].append(row)
    return rows


def _without_slot(rows: list[dict[str, Any]], slot: str) -> list[str]:
    """Return the texts that leave a slot open; all, where none does."""
    texts = [row["text"] for row in rows if all(span["label"] != slot for span in row["slots"])]
    return texts or [row["text"] for row in rows]


def _rows(exchange: Exchange, first_turns: list[str], values: Values, split: str) -> list[dict[str, Any]]:
    """Return the rows of one slot: passes over the answers until there are enough."""
    rng = Random(f"{SEED}/{split}/{exchange.intent}/{exchange.slot}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for _ in range(ROUNDS):
        for answer in rng.sample(exchange.answers, len(exchange.answers)):
            row = as_row(style(fill(answer, values, split, rng), rng), exchange.intent)
            if row["text"] in seen:
                continue
            seen.add(row["text"])
            context = [rng.choice(exchange.questions)]
            if rng.random() < FIRST_TURN_SHARE:
                context.insert(0, rng.choice(first_turns))
            row["context"] = context
            if rng.random() < REQUESTED_SHARE:
                row["requested_slots"] = [exchange.slot]
            rows.append(row)
            if len(rows) == ROWS_PER_QUESTION[split]:
                return rows
    return rows


def build() -> dict[str, str]:
    """Return the contents of the three files by file name."""
    values = Values.read(HERE / "assistant_phrases" / "values.toml")
    files = {}
    for split in ROWS_PER_QUESTION:
        first_turns = read_first_turns(split)
        rows = []
        for exchange in read_exchanges(HERE / "assistant_dialogue_phrases" / f"{split}.txt"):
            open_turns = _without_slot(first_turns[exchange.intent], exchange.slot)
            rows += _rows(exchange, open_turns, values, split)
        Random(f"{SEED}/{split}/dialogues").shuffle(rows)
        files[f"{split}.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return files


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Write the bundled answers to questions.")
    parser.add_argument("--output", type=Path, default=HERE / "assistant_dialogues", help="folder for the three files")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, text in build().items():
        (output / name).write_bytes(text.encode())
        print(f"{output / name}: {text.count(chr(10))} rows")


if __name__ == "__main__":
    main()
