"""Splits that the public data sets lack, written from PALM_DATA into a work directory (never into the repository).

    python benchmarks/splits.py --work DIR [--data PALM_DATA]

DIR/mrpc/{train,dev}.tsv          about a tenth of MRPC's training pairs as dev
DIR/xquad/FOLD/{train,dev,test}.json   XQuAD-en in five folds by article; of what is not test, an eighth of the articles is dev
DIR/xquad/FOLD/sentences.txt       the training passages' sentences, for the masked language model
DIR/xquad/FOLD/match.tsv           the training questions, each with its own passage and with another one of the same article
DIR/NAME/train.txt                 the training utterances of ATIS and SNIPS without their labels, for the masked language model
DIR/NAME_unseen                    those test utterances of ATIS and SNIPS with a slot value that no training utterance has in a slot of that name
DIR/atis_tenth/train               a tenth of the training utterances of ATIS
DIR/snips_{1,10}/train             a hundredth and a tenth of the training utterances of SNIPS

Every split is by a hash of what the row says: it depends on nothing else, and is the same on every machine.
"""

import argparse
import csv
import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias

FOLDS = 5
DEV_SHARE = 8
"""One article in this many of those that are not test is dev."""

Joint: TypeAlias = tuple[str, str, str]
"""A row of the joint format: words, tags, intent."""
JOINT_FILES = ("seq.in", "seq.out", "label")

PARTS = {"atis": {"atis_tenth": 10}, "snips": {"snips_1": 100, "snips_10": 10}}
"""Parts of the training utterances, by data set: the name of each, and one row in how many it has."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'])")


def write_splits(data: Path, work: Path) -> None:
    """Writes every split that is missing; a data set that `data` does not hold is passed over."""
    mrpc, xquad = data / "mrpc/msr_paraphrase_train.txt", data / "xquad/xquad.en.json"
    if mrpc.exists():
        split_mrpc(mrpc, work / "mrpc")
    if xquad.exists():
        for fold in range(FOLDS):
            split_xquad(xquad, work / "xquad" / str(fold), fold)
    for name in ("atis", "snips"):
        if (data / name).is_dir():
            split_joint(data / name, work, name)


def split_joint(source: Path, work: Path, name: str) -> None:
    """What is made of a directory with `train` and `test` in the joint format: see the head of this script."""
    train, test = (read_joint(source / split) for split in ("train", "test"))
    known = {value for row in train for value in slot_values(row)}
    write(work / name / "train.txt", "".join(" ".join(row[0].split()) + "\n" for row in train))
    write_joint(work / f"{name}_unseen", [row for row in test if not slot_values(row) <= known])
    for folder, divisor in PARTS[name].items():
        write_joint(work / folder / "train", part_of(train, divisor))


def part_of(rows: list[Joint], divisor: int) -> list[Joint]:
    """One row in `divisor`, by a digest of the row and of how often it stood above, since rows occur twice."""
    seen: Counter[Joint] = Counter()
    part = []
    for row in rows:
        seen[row] += 1
        if digest("\t".join((*row, str(seen[row])))) % divisor == 0:
            part.append(row)
    return part


def read_joint(folder: Path) -> list[Joint]:
    """Rows of a directory in the joint format."""
    columns = ((folder / part).read_text(encoding="utf-8").splitlines() for part in JOINT_FILES)
    return list(zip(*columns, strict=True))


def write_joint(folder: Path, rows: list[Joint]) -> None:
    """Writes a directory in the joint format."""
    for position, part in enumerate(JOINT_FILES):
        write(folder / part, "".join(row[position] + "\n" for row in rows))


def slot_values(row: Joint) -> frozenset[tuple[str, str]]:
    """Name and value of each slot of a row."""
    found: list[tuple[str, str]] = []
    for word, tag in zip(row[0].split(), row[1].split(), strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], word))
        elif tag.startswith("I-"):
            name, value = found.pop()
            found.append((name, f"{value} {word}"))
    return frozenset(found)


def split_mrpc(source: Path, target: Path) -> None:
    """About nine tenths of the pairs as `train.tsv`, the rest as `dev.tsv`, each with the header."""
    header, *rows = source.read_text(encoding="utf-8-sig").splitlines()
    in_dev = [digest("\t".join(row.split("\t")[1:3])) % 10 == 0 for row in rows]
    for name, wanted in (("train", False), ("dev", True)):
        chosen = [row for row, dev in zip(rows, in_dev, strict=True) if dev == wanted]
        write(target / f"{name}.tsv", "\n".join([header, *chosen]) + "\n")


def split_xquad(source: Path, target: Path, fold: int) -> None:
    """One fold: articles to train, dev and test, and the auxiliary tasks' text, of the training articles alone."""
    squad = json.loads(source.read_text(encoding="utf-8"))
    articles: list[dict[str, Any]] = sorted(squad["data"], key=lambda article: digest(title_of(article)))
    rest = [article for number, article in enumerate(articles) if number % FOLDS != fold]
    dev = [article for number, article in enumerate(rest) if number % DEV_SHARE == 0]
    splits = {
        "train": [article for number, article in enumerate(rest) if number % DEV_SHARE],
        "dev": dev,
        "test": articles[fold::FOLDS],
    }
    for name, chosen in splits.items():
        write(target / f"{name}.json", json.dumps({**squad, "data": chosen}, ensure_ascii=False) + "\n")
    passages = [[p["context"] for p in article["paragraphs"]] for article in splits["train"]]
    sentences = [s for own in passages for passage in own for s in _SENTENCE_END.split(" ".join(passage.split()))]
    write(target / "sentences.txt", "\n".join(sentences) + "\n")
    write_matching(splits["train"], target / "match.tsv")


def write_matching(articles: list[dict[str, Any]], target: Path) -> None:
    """Each question twice: with its passage (1), and with the article's next passage (0)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        table.writerow(["label", "text_a", "text_b"])
        for article in articles:
            passages = [" ".join(paragraph["context"].split()) for paragraph in article["paragraphs"]]
            for number, paragraph in enumerate(article["paragraphs"]):
                other = passages[(number + 1) % len(passages)]
                for question in paragraph["qas"]:
                    asked = " ".join(question["question"].split())
                    table.writerow(["1", asked, passages[number]])
                    if other != passages[number]:
                        table.writerow(["0", asked, other])


def title_of(article: dict[str, Any]) -> str:
    """What tells an article from the others: its title, or where the file leaves it out its first passage."""
    return str(article.get("title") or article["paragraphs"][0]["context"])


def digest(text: str) -> int:
    """A number that only depends on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def write(path: Path, text: str) -> None:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Writes the splits and says where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PALM_DATA", "../shared/data")))
    arguments = parser.parse_args()
    write_splits(arguments.data, arguments.work)
    print(f"export PALM_WORK={arguments.work.resolve()}")


if __name__ == "__main__":
    main()
