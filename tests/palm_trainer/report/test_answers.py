"""The section on all answers: its four outcomes are those of a server, its list can be filtered, and its links lead to rows."""

import json
import shutil
from dataclasses import replace
from urllib.parse import parse_qs

import pytest

from palm_serve import Model
from palm_serve.bundle.manifest import TaskThresholds
from palm_serve.config import Limits
from palm_serve.decoding.fallback_policy import judge, model_thresholds
from palm_serve.types import Classification, FallbackReason, Label
from palm_trainer.data.example import Example
from palm_trainer.report.answers import OUTCOMES, JudgedAnswer, list_rows, make_answers_section
from palm_trainer.report.template import render_page
from palm_trainer.runs.file_names import REPORT
from palm_trainer.tasks import Judged

REFUSED = FallbackReason.LOW_CONFIDENCE


def judged(gold: str | None, answered: str, confidence: float, reason=FallbackReason.NONE, source="dev.jsonl:1"):
    text = "wake me at six in the morning please and do not let me sleep" if confidence > 0.8 else "wake <b>me"
    example = Example(text, {"intent": gold} if gold else {}, source=source)
    label = Label(answered, confidence)
    answer = Classification(label, (label, Label("other", 1 - confidence)))
    row = None if gold is None else Judged("chat", example, "intent", gold, answered, answer)
    return JudgedAnswer("intent", "classify", example, answer, reason, row)


ANSWERS = [
    judged("alarm", "alarm", 0.9, source="dev.jsonl:1"),
    judged("alarm", "music", 0.95, source="dev.jsonl:2"),
    judged("music", "music", 0.3, REFUSED, "dev.jsonl:3"),
    judged("music", "alarm", 0.2, REFUSED, "dev.jsonl:4"),
    judged(None, "alarm", 0.25, REFUSED, "out.txt:1"),
    judged(None, "music", 0.7, source="out.txt:2"),
    judged("alarm", "music", 0.6, source="dev.jsonl:5"),
]


def test_outcome_of_each_answer():
    assert [answer.outcome for answer in ANSWERS] == [
        "right, answered",
        "wrong, answered",
        "right, refused",
        "wrong, refused",
        "right, refused",
        "wrong, answered",
        "wrong, answered",
    ]


def test_rows_begin_with_confident_wrong_answers():
    rows = list_rows({"intent": ANSWERS})
    assert [row["row"] for row in rows] == [
        *("dev.jsonl:2", "out.txt:2", "dev.jsonl:5"),
        *("dev.jsonl:3", "out.txt:1", "dev.jsonl:4", "dev.jsonl:1"),
    ]
    first, last = rows[0], rows[-1]
    assert first["sides"] == [[[], [["alarm", "", "missed", None]]], [[], [["music", "", "wrong", 0.95]]]]
    assert last["sides"] == [[[], [["alarm", "", "right", 0.9]]]]
    assert rows[4]["gold"] == ["(out of scope)"]
    assert rows[3]["reason"] == "low confidence"
    assert (rows[3]["words"], first["words"]) == (5, 14)


def test_rows_that_do_not_fit_are_the_least_urgent():
    rows = list_rows({"intent": ANSWERS * 40}, max_bytes=10_000)
    assert 20 < len(rows) < 100
    assert {row["outcome"] for row in rows} == {"wrong, answered"}
    assert len(json.dumps(rows, ensure_ascii=False)) < 12_000


def test_section_counts_all_answers_and_links_to_rows():
    section = make_answers_section({"intent": ANSWERS})
    assert section is not None
    outcomes, classes, answers = section.blocks
    assert [[cell.text for cell in row] for row in outcomes.rows] == [
        ["intent", "all", "3", "2", "1", "1"],
        ["intent", "out of scope", "1", "1", "0", "0"],
    ]
    assert outcomes.columns[2:] == OUTCOMES
    links = [parse_qs(cell.link[1:]) for row in outcomes.rows for cell in row if cell.link]
    assert {"task": ["intent"], "outcome": ["wrong, answered"]} in links
    assert {"task": ["intent"], "outcome": ["right, refused"], "gold": ["(out of scope)"]} in links
    assert [row[0].text for row in classes.rows] == ["alarm", "(out of scope)", "music"]
    assert (answers.listed, answers.hidden) == (7, 0)


def test_section_without_answers_is_left_out():
    assert make_answers_section({}) is None
    assert make_answers_section({"intent": []}) is None


def test_limits_of_a_model_are_those_of_a_request_without_any():
    thresholds = model_thresholds(TaskThresholds(intent_confidence=0.5, ambiguity_margin=0.1, out_of_scope=0.9))
    label, other = Label("a", 0.52), Label("b", 0.48)
    assert judge(Classification(label, (label, other)), thresholds) is FallbackReason.AMBIGUOUS
    assert judge(Classification(other, (other,)), thresholds) is FallbackReason.LOW_CONFIDENCE
    assert judge(Classification(label, (label,), (), 0.95), thresholds) is FallbackReason.OUT_OF_SCOPE


def rows_of(page: str) -> list[dict]:
    return json.loads(page.partition('id="answer-rows">')[2].partition("</script>")[0])


TABLES = """
[data.chat]
format = "jsonl"
train = "train.jsonl"
dev = "dev.jsonl"
out_of_scope = "chat.txt"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["chat"]
false_rejection = 0.2
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["chat"]
"""


def test_refused_answers_are_those_that_a_server_refuses(kind):
    rows = []
    for number, (text, intent) in enumerate((("wake me at six", "alarm"), ("play some jazz", "music")) * 12):
        rows.append({"text": f"{text} {number}", "intent": intent, "slots": [{"start": 0, "end": 4, "label": "verb"}]})
    kind.rows("train.jsonl", rows)
    unknown = {"text": "明天北京天气怎么样", "intent": "alarm", "slots": []}
    kind.rows("dev.jsonl", [*rows[:10], {**rows[0], "text": "wake jazz", "intent": "music"}, unknown])
    (kind.folder / "chat.txt").write_text("what is love\nhow old are you\nwake the six jazz\n", encoding="utf-8")
    kind.train(TABLES, epochs=4)
    page = (kind.run / REPORT).read_text(encoding="utf-8")
    listed = rows_of(page)
    assert len(listed) == 12 + 12 + 3
    assert {row["gold"][0] for row in listed if "chat.txt:" in row["row"]} == {"(out of scope)"}
    model = Model(kind.serve(), Limits())
    refused = set()
    for row in listed:
        is_refused = row["outcome"].endswith("refused")
        text = row["texts"][0] if row["texts"] else ""
        if row["task"] == "intent":
            fallback = model.parse(text).fallback
            assert is_refused == fallback.triggered, row
            if is_refused:
                refused.add(row["reason"])
                assert row["reason"] == fallback.Reason.Name(fallback.reason).lower().replace("_", " ")
        else:
            assert not is_refused
    assert {"unknown language", "out of scope"} <= refused
    assert '<a href="#task=intent&amp;outcome=' in page


BROWSE = """
import json, re, sys
from playwright.sync_api import sync_playwright
page_file, chromium = sys.argv[1:]
facts = {"problems": []}
with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 320, "height": 700})
    page.on("console", lambda message: facts["problems"].append(message.text))
    page.on("pageerror", lambda error: facts["problems"].append(str(error)))
    page.goto("file://" + page_file)
    items = page.locator("#answer-list > li")
    items.first.wait_for()
    facts["width"] = page.evaluate("document.documentElement.scrollWidth")
    facts["bold"] = page.locator("#answer-list b").count()
    facts["first"] = items.first.inner_text()
    facts["drawn"] = items.count()
    state = page.locator("#answer-state")

    def count(name, expected):
        page.locator("#answer-state", has_text=re.compile("^" + expected)).wait_for()
        facts[name] = items.count()

    page.locator("table a", has_text="120").first.click()
    count("linked", "120 of 280")
    facts["outcome"] = page.locator("select[name=outcome]").input_value()
    page.click("#more-answers")
    facts["more"] = items.count()
    page.click("button[type=reset]")
    count("cleared", "280 of 280")
    page.select_option("select[name=gold]", "music")
    page.select_option("select[name=words]", "4-11")
    page.fill("input[name=to]", "25")
    count("filtered", "40 of 280")
    facts["hash"] = page.evaluate("location.hash")
    items.first.locator("a").click()
    count("row", "1 of 280")
    facts["again"] = page.evaluate("location.hash")
    page.goto("file://" + page_file + "#task=intent&outcome=right%2C%20refused&answered=alarm")
    count("opened", "40 of 280")
    page.fill("input[name=q]", "nothing like it")
    count("nothing", "0 of 280")
    facts["names"] = page.locator("form label").all_inner_texts()
    browser.close()
print(json.dumps(facts))
"""


@pytest.mark.slow
def test_list_of_answers_in_a_browser(environments, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    python = environments.make_environment("browser", ["playwright>=1.65"])
    answers = []
    for number in range(40):
        for answer in ANSWERS:
            example = replace(answer.example, source=f"{answer.example.source}{number:02}")
            answers.append(replace(answer, example=example))
    section = make_answers_section({"intent": answers})
    html = render_page(
        "report.html",
        script_files=("table.js", "report.js"),
        name="run",
        split="dev",
        cards=[],
        facts=[],
        metrics=[],
        sections=[section],
    )
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    facts = environments.run_python(python, BROWSE, tmp_path / "report.html", chromium)
    assert facts["problems"] == []
    assert facts["width"] == 320
    assert facts["bold"] == 0
    assert "wrong, answered" in facts["first"]
    assert "confidence 95.0 %" in facts["first"]
    assert (facts["drawn"], facts["linked"], facts["cleared"]) == (50, 50, 50)
    assert facts["more"] == 100
    assert facts["outcome"] == "wrong, answered"
    assert facts["hash"] == "#gold=music&words=4-11&to=25"
    assert (facts["filtered"], facts["row"], facts["opened"]) == (40, 1, 40)
    assert "row=dev.jsonl" in facts["again"]
    assert facts["nothing"] == 1  # a line says that no answer fits
    assert len(facts["names"]) == 8
