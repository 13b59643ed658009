"""How many of the labels that were made wrong does `palm-train health` find?

    python -m benchmarks.health --data DIR [--cleanlab PYTHON] [--browser PYTHON] [--rows N] [--json FILE]

5 % of the intents of BANKING77's training set become another class, and 5 % of the spans of SNIPS' training set another
label (seeded). With k the number of wrong labels, the first k of the page are compared with a random order, and with
cleanlab called directly on the same frozen vectors of the default encoder. Recall at k equals precision at k. PYTHON is the
interpreter of an environment with `pip install cleanlab`. Nothing is downloaded. The file is written after each set.

The set `page` measures how long the page of CLINC150's 15,000 training rows takes to make, without the start of Python. With
`--browser`, the interpreter of an environment with playwright, Debian's Chromium opens it: `opened_s` is the median of
three times from the beginning of the navigation to the first findings that are drawn.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import commit, machine, today
from palm_trainer.config.loader import Config, load_config
from palm_trainer.data.example import Example, spans_in
from palm_trainer.data.formats.jsonl import as_row
from palm_trainer.data.splits import Splits
from palm_trainer.health.check_data import check_files, check_with_encoder
from palm_trainer.health.model_checks import label_words
from palm_trainer.health.page import write_page
from palm_trainer.health.review_lines import Item, make_lines
from palm_trainer.health.rows import TaskRows
from palm_trainer.health.vectors import encode, load_encoder, stack_words

SHARE = 0.05
SETS = ("banking77", "snips", "page")
_OPEN = """
import json, statistics, sys
from playwright.sync_api import sync_playwright
times = []
with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=sys.argv[2], args=["--no-sandbox"])
    for _ in range(3):
        page = browser.new_page()
        page.goto("file://" + sys.argv[1])
        page.locator("#list > li").first.wait_for()
        times.append(page.evaluate("performance.now()") / 1000)
        page.close()
    browser.close()
print(json.dumps(statistics.median(times)))
"""
"""Opens a page three times, and prints the median of the seconds."""
_CELL = Path(__file__).parent / "peers_health" / "cleanlab_cell.py"
_CONFIG = """
[encoder]
model = "minilm-l6-en"
max_length = 64
[data.{name}]
format = "jsonl"
train = "{path}"
[tasks.{task}]
kind = "{kind}"
data = ["{name}"]
[train]
output = "unused"
"""

Label = tuple[int, int]
"""Row and first code point of a label. Classes have 0."""


def flip_classes(examples: Sequence[Example], numbers: np.random.Generator) -> tuple[list[Example], set[Label]]:
    """Return examples of which 5 % have another class, and the labels that are wrong."""
    classes = sorted({str(example.fields["intent"]) for example in examples})
    flipped = list(examples)
    wrong: set[Label] = set()
    for row in numbers.choice(len(examples), round(SHARE * len(examples)), replace=False).tolist():
        rivals = [name for name in classes if name != examples[row].fields["intent"]]
        flipped[row] = replace(examples[row], fields={"intent": rivals[numbers.integers(len(rivals))]})
        wrong.add((row, 0))
    return flipped, wrong


def flip_spans(examples: Sequence[Example], numbers: np.random.Generator) -> tuple[list[Example], set[Label]]:
    """Return examples with slots alone, of which 5 % of the spans have another label, and the labels that are wrong."""
    places = []
    names: set[str] = set()
    for row, example in enumerate(examples):
        for position, span in enumerate(spans_in(example.fields["slots"])):
            places.append((row, position))
            names.add(span.label)
    labels = sorted(names)
    slots = [spans_in(example.fields["slots"]) for example in examples]
    wrong: set[Label] = set()
    for number in numbers.choice(len(places), round(SHARE * len(places)), replace=False).tolist():
        row, position = places[number]
        span = slots[row][position]
        rivals = [label for label in labels if label != span.label]
        slots[row][position] = replace(span, label=rivals[numbers.integers(len(rivals))])
        wrong.add((row, span.start))
    flipped = []
    for example, spans in zip(examples, slots, strict=True):
        flipped.append(replace(example, fields={"slots": tuple(spans)}))
    return flipped, wrong


def rank_page(config: Config, items: Sequence[Item]) -> list[Label]:
    """Return the labels of the page in its order, those of classes and of spans that are there."""
    ranked = []
    for item in items:
        start = item.line.get("start") or 0
        if item.line["label"]:
            for span in item.line["label"] if isinstance(item.line["label"], list) else [{"start": start}]:
                ranked.append((item.line["line"] - 1, span["start"]))
    return list(dict.fromkeys(ranked))


def rank_cleanlab(config: Config, rows: TaskRows, python: str, folder: Path) -> list[Label]:
    """Return all labels, those first that cleanlab holds for wrong."""
    train = [row.example for row in rows.rows["train"]]
    vectors = encode(load_encoder(config, None, train), train, words=rows.kind == "spans")
    arrays: dict[str, Any] = {}
    if rows.kind == "spans":
        words = label_words(rows)
        arrays = {"vectors": stack_words(vectors), "labels": words.labels, "sentences": words.rows}
    else:
        _, labels = np.unique([str(example.fields["intent"]) for example in train], return_inverse=True)
        arrays = {"vectors": vectors.texts, "labels": labels}
    np.savez(folder / "given.npz", **arrays)
    subprocess.run([python, _CELL, folder / "given.npz", folder / "quality.npy"], check=True)
    quality = np.load(folder / "quality.npy")
    scores: dict[Label, float] = {}
    for number, row in enumerate(arrays["sentences"].tolist() if rows.kind == "spans" else range(len(quality))):
        if rows.kind != "spans":
            scores[row, 0] = float(quality[number])
            continue
        example = train[row]
        start, end = (example.words or [])[int(words.words[number])]
        for span in spans_in(example.fields["slots"]):
            if span.start < end and start < span.end:
                key = (row, span.start)
                scores[key] = min(scores.get(key, 1.0), float(quality[number]))
    return sorted(scores, key=lambda label: scores[label])


def measure(name: str, task: str, kind: str, examples: list[Example], options: argparse.Namespace) -> dict[str, Any]:
    """Make labels wrong and return the precision of each order at the number of wrong labels."""
    numbers = np.random.default_rng(options.seed)
    if options.rows:
        chosen = sorted(numbers.choice(len(examples), min(options.rows, len(examples)), replace=False).tolist())
        examples = [examples[row] for row in chosen]
    flipped, wrong = (flip_classes if task == "intent" else flip_spans)(examples, numbers)
    total = len(flipped) if task == "intent" else sum(len(spans_in(example.fields["slots"])) for example in flipped)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "train.jsonl"
        path.write_text("".join(json.dumps(as_row(example)) + "\n" for example in flipped), encoding="utf-8")
        (folder / "c.toml").write_text(_CONFIG.format(name=name, path=path, task=task, kind=kind), encoding="utf-8")
        config = load_config(folder / "c.toml")
        health, tasks = check_files(config)
        check_with_encoder(config, tasks, None, health)
        orders = {"health": rank_page(config, make_lines(config, health.findings, health.merges, None).items)}
        if options.cleanlab:
            orders["cleanlab"] = rank_cleanlab(config, tasks[0], options.cleanlab, folder)
    figures: dict[str, Any] = {"rows": len(flipped), "labels": total, "wrong": len(wrong), "random": SHARE}
    for arm, ranked in orders.items():
        hits = sum(label in wrong for label in ranked[: len(wrong)])
        figures[arm] = {"precision_at_k": hits / len(wrong), "listed": len(ranked)}
    print(name, json.dumps(figures))
    return figures


def measure_page(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return how long the page of a file of rows takes to make and to open.

    Args:
        path: file of jsonl with intents.
        options: of the command.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        content = _CONFIG.format(name="page", path=path.resolve(), task="intent", kind="classify")
        (folder / "c.toml").write_text(content, encoding="utf-8")
        began = time.perf_counter()
        config = load_config(folder / "c.toml")
        health, tasks = check_files(config)
        check_with_encoder(config, tasks, None, health)
        review = make_lines(config, health.findings, health.merges, None)
        write_page("page", health, tasks, review, folder / "health.html")
        figures: dict[str, Any] = {
            "rows": sum(len(rows) for rows in tasks[0].rows.values()),
            "findings": len(review.items),
            "made_s": round(time.perf_counter() - began, 1),
            "page_kib": (folder / "health.html").stat().st_size // 1024,
        }
        if options.browser:
            chromium = shutil.which("chromium")
            if chromium is None:
                raise SystemExit("--browser needs the command chromium, got none. apt-get install chromium")
            command = [options.browser, "-c", _OPEN, folder / "health.html", chromium]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures["opened_s"] = round(json.loads(done.stdout), 2)
    print("page", json.dumps(figures))
    return figures


def main() -> None:
    """Measure the sets and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with fewshot/ and snips/")
    parser.add_argument("--cleanlab", help="interpreter of an environment with cleanlab")
    parser.add_argument("--browser", help="interpreter of an environment with playwright, to time how the page opens")
    parser.add_argument("--rows", type=int, help="rows of banking77 and of snips, drawn by the seed; default: all")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    where = {"machine": machine(), "commit": commit(), "date": today()}
    results: dict[str, Any] = {**where, "share": SHARE, "seed": options.seed, "rows_limit": options.rows}
    for name in options.sets:
        results[name] = _measure_set(name, options)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _measure_set(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one of `SETS`."""
    if name == "page":
        return measure_page(options.data / "fewshot" / "CLINC150_train.jsonl", options)
    if name == "snips":
        examples = _read("joint", options.data / "snips" / "train")
        return measure(name, "slots", "sequence_label", examples, options)
    return measure(
        name, "intent", "classify", _read("jsonl", options.data / "fewshot" / "BANKING77_train.jsonl"), options
    )


def _read(format_name: str, path: Path) -> list[Example]:
    from palm_trainer.config.schema import data_config

    return Splits({"d": data_config({"format": format_name, "train": str(path)})}).examples("d", "train")


if __name__ == "__main__":
    main()
