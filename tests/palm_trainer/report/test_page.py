"""Reports of real runs: their contents, that they are one file, and that no text becomes HTML."""

import base64
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from palm_trainer.config.loader import load_config
from palm_trainer.runs.evaluate_run import report_run
from palm_trainer.runs.file_names import REPORT
from palm_trainer.runs.run import train

HEADER = """
[encoder]
model = "scratch"
max_length = 20
layers = 1
hidden_size = 16
heads = 2
vocab_size = 200

[train]
epochs = {epochs}
batch_size = 8
learning_rate = 1e-2
precision = "fp32"
device = "cpu"
log_every_steps = 1
output = "{output}"
"""

CHAT = """
[data.chat]
format = "jsonl"
train = "chat.jsonl"
dev = "chat-dev.jsonl"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["chat"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["chat"]
"""

OTHERS = """
[data.mixed]
format = "tsv"
train = "mixed.tsv"
dev = "mixed.tsv"
label_separator = "#"
[tasks.topics]
kind = "multi_label"
data = ["mixed"]
[data.pairs]
format = "tsv"
train = "pairs.tsv"
dev = "pairs.tsv"
[tasks.same]
kind = "match"
data = ["pairs"]
[data.ranks]
format = "tsv"
train = "ranks.tsv"
dev = "ranks.tsv"
[tasks.rank]
kind = "match"
learning_strategy = "pairwise"
data = ["ranks"]
[data.squad]
format = "jsonl"
train = "squad.jsonl"
dev = "squad.jsonl"
[tasks.reading]
kind = "mrc"
data = ["squad"]
max_query_tokens = 6
doc_stride_tokens = 5
"""

SCRIPT = "<script>alert(1)</script>"
HEBREW, CHINESE = "אני רוצה לטוס מחר לברלין", "明天北京天气怎么样"


class Page(HTMLParser):
    """Parser that counts elements and keeps the text.

    It fails on elements that are not closed in order.
    """

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.text.append(data)
        if self._open and self._open[-1] in ("h3", "figcaption"):
            self.headings.append(data)


def write_rows(path: Path, rows: list[dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def fit(folder: Path, tables: str, *overrides: str, epochs: int = 1):
    (folder / "tiny.toml").write_text(
        HEADER.format(output=(folder / "run").as_posix(), epochs=epochs) + tables, encoding="utf-8"
    )
    config = load_config(folder / "tiny.toml", overrides)
    for _ in train(config):
        pass
    return load_config(folder / "run/config.toml")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[Page, str]:
    """Return the report of a run with every kind of task, over texts that contain HTML."""
    folder = tmp_path_factory.mktemp("report")
    span = [{"start": 0, "end": 8, "label": "<b>bold</b>"}]
    chat = [
        {"text": f"{SCRIPT} go & stop", "intent": '"><img src=x onerror=alert(1)>', "slots": span},
        {"text": HEBREW, "intent": "טיסה", "slots": [{"start": 18, "end": 24, "label": "יעד"}]},
        {"text": CHINESE, "intent": "天气", "slots": [{"start": 2, "end": 4, "label": "城市"}]},
        {"text": "word " * 40, "intent": "long", "slots": []},
    ]
    write_rows(folder / "chat.jsonl", chat * 4)
    wrong = {"intent": "never trained", "slots": [{"start": 0, "end": 3, "label": "who"}]}
    write_rows(folder / "chat-dev.jsonl", [*chat, *({**row, **wrong} for row in chat)])
    (folder / "mixed.tsv").write_text("text\tlabel\na b\tx#y\na c\tx\nnothing\t\n" * 3, encoding="utf-8")
    (folder / "pairs.tsv").write_text("text_a\ttext_b\tlabel\na\ta\tyes\na\tb\tno\nb\tb\tyes\n" * 3, encoding="utf-8")
    (folder / "ranks.tsv").write_text("text_a\ttext_b\ttext_b_neg\na\ta\tb\nb\tc\tb\n" * 3, encoding="utf-8")
    passage = "anna lives in paris and bob lives in rome " * 3
    answer = [{"start": 14, "end": 19}]
    asked = [{"text": "where is anna", "text_pair": passage, "answer": answer}]
    write_rows(folder / "squad.jsonl", [*asked, {"text": "where is zoe", "text_pair": passage, "answer": []}] * 3)
    config = fit(folder, CHAT + OTHERS, epochs=8)
    text = (config.train.output / REPORT).read_text(encoding="utf-8")
    return Page(text), text


def test_page_shows_html_in_texts_without_running_it(page):
    parsed, text = page
    assert parsed.tags["script"] == 2  # that of the page, and the answers as JSON
    assert parsed.tags["img"] == parsed.tags["b"] == 0
    assert not [attribute for _, attribute, _ in parsed.attributes if attribute.startswith("on")]
    shown = "".join(parsed.text)
    for expected in (SCRIPT, '"><img src=x onerror=alert(1)>', "<b>bold</b>", HEBREW[:18], CHINESE[2:4], "go & stop"):
        assert expected in shown
    assert "<script>alert" not in text


def test_page_loads_no_other_file(page):
    parsed, text = page
    links = [
        (tag, name, value) for tag, name, value in parsed.attributes if name in ("src", "href", "srcset", "action")
    ]
    assert links
    assert all(tag == "a" and value.startswith("#") for tag, name, value in links)
    anchors = {value for _, name, value in parsed.attributes if name == "id"}
    filters = {value[1:] for _, _, value in links if "=" in value}
    assert {value[1:] for _, _, value in links} - filters <= anchors
    names = {name for value in filters for name, _ in parse_qsl(value, strict_parsing=True)}
    assert names == {"task", "outcome", "gold", "answered", "row"}
    assert "url(" not in text
    assert "@import" not in text


def test_page_policy_permits_only_its_own_script(page):
    _, text = page
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_page_has_the_blocks_of_every_task_kind(page):
    headings = Counter(page[0].headings)
    assert headings["Calibration"] == 5  # The scores of a ranker are not confidences.
    assert headings["Confusion matrix"] == 2
    assert headings["By length of the answer"] == 1
    assert headings["Span types"] == 1
    assert headings["Labels"] == 3
    assert headings["'yes' above a score"] == 1
    assert headings["config.toml"] == 1
    assert {f"{task}: label distribution" for task in ("intent", "slots", "topics", "same", "reading")} <= set(headings)
    assert {f"{task}: dev" for task in ("intent", "slots", "topics", "same", "rank", "reading")} <= set(headings)


def test_page_describes_the_run_and_problems_in_the_data(page):
    shown = " ".join("".join(page[0].text).split())
    assert "label 'never trained' that is not in train" in shown
    assert "text that is also in train" in shown
    assert "chat-dev.jsonl:5" in shown
    assert "read in windows" in shown
    assert re.search(r"epoch \d, step \d+, selected by average", shown)
    assert "torch 2." in shown
    assert "palm-train run" in shown
    assert "truncated at 20" in shown


def test_page_sets_the_direction_of_each_text(page):
    texts = [value for _, name, value in page[0].attributes if name == "class" and value == "text"]
    assert len(texts) > 5
    assert page[1].count('class="text" dir="auto"') == len(texts)


def test_page_of_a_run_without_dev_has_no_matrix(tiny_config, fit):
    config = tiny_config("train.epochs=1", splits=())
    fit(config)
    page = Page((config.train.output / REPORT).read_text(encoding="utf-8"))
    assert "intent: loss" in "".join(page.headings)
    assert "Confusion matrix" not in page.headings


def test_page_of_a_run_with_a_damaged_or_missing_log(tiny_config, fit):
    config = tiny_config("train.epochs=1")
    fit(config)
    log = config.train.output / "events.jsonl"
    log.write_text(log.read_text(encoding="utf-8") + '{"event": "st', encoding="utf-8")
    settings = load_config(config.train.output / "config.toml")
    page = report_run(config.train.output, settings).read_text(encoding="utf-8")
    assert "intent: loss" in "".join(Page(page).headings)
    log.unlink()
    page = report_run(config.train.output, settings).read_text(encoding="utf-8")
    assert "The log has no training steps." in "".join(Page(page).text)


@pytest.mark.parametrize("size", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_page_with_many_labels_and_rows_stays_small(tmp_path, size):
    """All rows are wrong, with 150 intents and 120 tags. The page counts what it leaves out."""
    rows = [
        {
            "text": f"word {i} of many words",
            "intent": f"intent_{i}",
            "slots": [{"start": 0, "end": 4, "label": f"type_{i % 60}"}],
        }
        for i in range(150)
    ]
    write_rows(tmp_path / "chat.jsonl", rows)
    write_rows(tmp_path / "chat-dev.jsonl", rows)
    write_rows(tmp_path / "big.jsonl", [{**rows[i % 150], "intent": f"intent_{(i + 1) % 150}"} for i in range(size)])
    config = fit(tmp_path, CHAT, "train.batch_size=50")
    config = load_config(config.train.output / "config.toml", [f"data.chat.dev={tmp_path / 'big.jsonl'}"])
    path = report_run(config.train.output, config)
    assert path.stat().st_size < 1e6
    text = path.read_text(encoding="utf-8")
    assert f"{size - 50:,} more are not." in text
    assert text.count('<p class="where">') <= 100
    assert "The 25 labels of 150 that are confused most" in "".join(Page(text).text)
