"""The page: what it holds, and in a slow test its keys, filters and review in a real browser."""

import json
import random
import shutil

import pytest

from palm_trainer.config.loader import load_config
from palm_trainer.data.splits import Splits
from palm_trainer.health.check_data import check_files
from palm_trainer.health.page import make_page_data, write_page
from palm_trainer.health.review_lines import make_lines, write_lines

BROWSE = """
import json, sys, time
from playwright.sync_api import sync_playwright
page_file, folder, chromium = sys.argv[1:]
facts = {"problems": []}
with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 320, "height": 700})
    page.on("console", lambda message: facts["problems"].append(message.text))
    page.on("pageerror", lambda error: facts["problems"].append(str(error)))
    page.goto("file://" + page_file)
    items = page.locator("#list > li")
    items.first.wait_for()
    facts["opened_ms"] = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    facts["width"] = page.evaluate("document.documentElement.scrollWidth")
    facts["drawn"] = items.count()
    facts["first"] = items.first.inner_text()
    facts["images"] = page.locator("img").count()
    page.select_option("#filter-field", "slots")
    page.locator("#state", has_text="2 shown").wait_for()
    facts["hash"] = page.evaluate("location.hash")
    facts["marks"] = page.locator("#list > li").first.locator("> .text mark").all_inner_texts()
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.keyboard.press("d")
    page.goto("file://" + page_file + "#field=intent&q=onerror")
    page.locator("#state", has_text="1 shown").wait_for()
    for key in ("a", "u", "l"):
        page.keyboard.press(key)
    page.locator(".choose select").select_option("music")
    page.locator(".choose button").click()
    page.locator("#state", has_text="3 of").wait_for()
    facts["state"] = page.locator("#state").inner_text()
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(folder + "/review.jsonl")
    again = browser.new_page()
    again.on("dialog", lambda dialog: dialog.accept())
    again.goto("file://" + page_file)
    again.set_input_files("#file", folder + "/review.jsonl")
    again.locator("#state", has_text="3 decisions taken").wait_for()
    browser.close()
print(json.dumps(facts))
"""


def make_page(config, folder):
    health, tasks = check_files(config)
    review = make_lines(config, health.findings, health.merges, None)
    write_page("bank", health, tasks, review, folder / "health.html")
    write_lines(folder / "review.jsonl", review.lines())
    return tasks, review


def test_page_holds_findings_and_rows_to_compare_only(write_rows, tmp_path):
    rows = [{"text": f"text {number}", "intent": "ab"[number % 2]} for number in range(500)]
    rows += [{"text": "</script><b>text 7", "intent": "a"}, {"text": "</script><b>text 7", "intent": "b"}]
    tasks, review = make_page(write_rows("classify", "intent", train=rows), tmp_path)
    data = make_page_data(tasks, review)
    assert [item["line"]["line"] for item in data["items"]] == [502]
    assert [row["place"].rpartition(":")[2] for row in data["rows"]] == ["501"]
    assert data["labels"] == {"intent": {"kind": "class", "names": ["a", "b"]}}
    html = (tmp_path / "health.html").read_text()
    assert "text 8" not in html
    assert html.count("</script>") == 2
    assert "src=" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_page_without_findings_can_be_written(write_rows, tmp_path):
    make_page(write_rows("classify", "intent", train=[{"text": "a", "intent": "x"}]), tmp_path)
    assert (tmp_path / "review.jsonl").read_text() == ""
    assert "0 labels to look at" in (tmp_path / "health.html").read_text()


@pytest.fixture
def large_config(write_rows, tmp_path):
    """15,000 rows with intents and slots. Some texts stand twice with different intents, two have a wrong span."""
    numbers = random.Random(7)
    words = [
        "wake",
        "me",
        "play",
        "jazz",
        "at",
        "six",
        "ten",
        "past",
        "stop",
        "the",
        "music",
        "now",
        "please",
        "in",
        "rome",
    ]
    rows = []
    for number in range(15_000):
        intent = ("alarm", "music")[number % 2]
        rows.append({"text": f"{' '.join(numbers.choices(words, k=6))} {number}", "intent": intent, "slots": []})
    for number in range(300):
        other = "music" if rows[number]["intent"] == "alarm" else "alarm"
        rows.append({**rows[number], "intent": other})
    rows[14_000] = {"text": "ten past <img src=x onerror=alert(1)>", "intent": "alarm", "slots": []}
    rows.append({**rows[14_000], "intent": "music"})
    for city in ("oslo", "bonn", "riga"):
        rows.append(
            {"text": f"🎷 爵士 in {city} now", "intent": "music", "slots": [{"start": 8, "end": 12, "label": "city"}]}
        )
    # The same city is one span without a label, and one of another label.
    rows.append({**rows[-1], "text": "🎷 爵士 in riga now please", "slots": []})
    rows.append({**rows[-2], "slots": [{"start": 8, "end": 12, "label": "town"}]})
    write_rows("classify", "intent", train=rows)
    path = tmp_path / "bank.toml"
    path.write_text(path.read_text() + '\n[tasks.slots]\nkind = "sequence_label"\ndata = ["bank"]\n')
    return load_config(path)


@pytest.mark.slow
def test_page_of_15000_rows_in_a_browser(environments, large_config, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    python = environments.make_environment("browser", ["playwright>=1.65"])
    make_page(large_config, tmp_path)
    written = (tmp_path / "review.jsonl").read_text().splitlines()
    saved = tmp_path / "saved"
    saved.mkdir()
    facts = environments.run_python(python, BROWSE, tmp_path / "health.html", saved, chromium)
    assert facts["problems"] == []
    assert facts["opened_ms"] < 10_000  # 2 s on a free core
    assert facts["width"] == 320
    assert facts["drawn"] == 50
    assert facts["images"] == 0
    assert facts["hash"] == "#field=slots"
    assert "not saved" in facts["state"]
    lines = list(map(json.loads, (saved / "review.jsonl").read_text().splitlines()))
    decided = {}
    for line, before in zip(lines, written, strict=True):
        if line["decision"] is None:
            assert json.dumps(line, ensure_ascii=False, separators=(",", ":")) == before
        else:
            decided[line["field"], line["line"]] = (line["decision"], line["to"])
    assert sorted(decision for decision, _ in decided.values()) == ["drop", "relabel", "relabel"]
    assert decided["intent", 15_301] == ("relabel", "music")
    data = {"bank": large_config.data["bank"].model_copy(update={"review": (saved / "review.jsonl",)})}
    split = Splits(data).read("bank", "train")
    changes = {defect.kind: defect.count for defect in split.defects if "the review" in defect.kind}
    assert changes["row that the review removed (drop)"] == 1
