"""The playground in Chromium, on a real server. Errors of the console fail each test.

Needs Debian's `chromium`, or another Chromium or Chrome on the PATH, and skips without it.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from palm_serve.rpc.access.tokens import new_token

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]

PARSE = "/palm_serve.v1.DialogueUnderstanding/Parse"
PARSE_BATCH = "/palm_serve.v1.DialogueUnderstanding/ParseBatch"
LIMIT_MS = 120_000.0
EMOJI = "\N{GRINNING FACE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}"
LONG = "please show me flights from boston to new york on monday"
TEXTS = [
    LONG,
    "hello",
    f"{EMOJI} fly to boston {EMOJI} on monday",
    "is the weather awful in 北京 next week?",
    "مرحبا boston شكرا monday",
    "e\u0301 fly   to\u00a0boston",
    "boston <img src=x onerror=alert(1)>",
]


@pytest.fixture(scope="module")
def chromium(environments):
    python = environments.make_environment("playwright", ["playwright==1.65.2"])
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    sys.path.append(packages)  # the same Python, so that its packages can be imported here
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
    sys.path.remove(packages)


def expect(locator):
    from playwright.sync_api import expect as expect_of

    return expect_of(locator)


@pytest.fixture(scope="module")
def feedback(tmp_path_factory):
    return tmp_path_factory.mktemp("feedback") / "rows.jsonl"


@pytest.fixture(scope="module")
def door(make_shared_door, make_tiny_bundle, reseal_bundle, feedback, tmp_path_factory):
    """Run a server of two versions, of which the second one reads fewer tokens."""
    short = make_tiny_bundle(tmp_path_factory.mktemp("short") / "tiny", max_length=8)
    golden = {"text": "hello", "pair": None, "answers": {"intent": {"label": "greeting"}}}
    (short / "golden.jsonl").write_text(json.dumps(golden) + "\n", encoding="utf-8")
    reseal_bundle(short)
    return make_shared_door(short, "--feedback", feedback)


@pytest.fixture
def open_page(chromium):
    """Return `open_page(url, is_broken=..., **OPTIONS)`. Where the server is broken on purpose, Chromium tells so itself."""
    errors: list[str] = []
    contexts = []

    def start(url: str, is_broken: bool = False, **options):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(LIMIT_MS)

        def hear(message) -> None:
            if message.type in ("error", "warning") and not (is_broken and "Failed to load resource" in message.text):
                errors.append(message.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()
    assert errors == []


def wait_until_ready(page) -> None:
    expect(page.locator("#state")).to_have_text("Ready", timeout=LIMIT_MS)


def shown(page) -> dict:
    """Return the answer that the page shows as JSON."""
    return json.loads(page.locator("#json").text_content())


def ask_for(page, text: str) -> dict:
    page.locator("#text").fill(text)
    expect(page.locator("#json")).to_contain_text(f'"text": {json.dumps(text, ensure_ascii=False)}', timeout=LIMIT_MS)
    return shown(page)


def call(door, text: str, **fields) -> dict:
    return door.post(PARSE, {"text": text, "offsetUnit": "OFFSET_UNIT_UTF16", "topK": 10, **fields}).json()


def without_times(answer: dict) -> dict:
    return {key: value for key, value in answer.items() if key not in ("requestId", "timings")}


def utf16(text: str, start: int, end: int) -> str:
    return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")


def test_marks_and_ranking_are_those_of_the_api(door, open_page):
    page = open_page(door.url)
    wait_until_ready(page)
    page.locator("#version").select_option(index=1)
    for text in TEXTS:
        answer = ask_for(page, text)
        expected = call(door, text, version=answer["version"])
        assert without_times(answer) == without_times(expected)
        card = page.locator(".answer")
        slots = expected.get("slots", [])
        values = [utf16(text, slot.get("start", 0), slot["end"]) for slot in slots]
        assert values == [slot["value"] for slot in slots]
        assert card.locator("mark .value").all_text_contents() == values
        assert card.locator("mark .name bdi").all_text_contents() == [slot["name"] for slot in slots]
        assert "".join(card.locator(".marked [data-start]").all_text_contents()) == text
        labels = [label["name"] for label in expected["ranking"]][:5]
        assert card.locator(".part").first.locator(".label").all_text_contents() == labels
        assert card.locator("img").count() == 0
    assert values == ["boston"]  # before the tag


def test_labels_stay_text(make_tiny_bundle, start_server, open_page, monkeypatch, tmp_path):
    evil = '<img src=x onerror="document.title=1">'
    names = {"flight": f"{evil}flight", "B-city": f"B-{evil}", "I-city": f"I-{evil}"}
    variables = make_tiny_bundle.__globals__
    for name in ("INTENTS", "TAGS"):
        monkeypatch.setitem(variables, name, tuple(names.get(label, label) for label in variables[name]))
    words = {}
    for word, labels in variables["WORDS"].items():
        words[word] = tuple(names.get(label, label) for label in labels)
    monkeypatch.setitem(variables, "WORDS", words)
    monkeypatch.setitem(
        variables, "GOLDEN", [{"text": f"hi {evil}", "pair": None, "answers": {"intent": {"label": "greeting"}}}]
    )
    process = start_server(make_tiny_bundle(tmp_path / "a"), "--http-port", "0", "--drain-grace", "0")
    process.target()  # before it is ready, it answers 503
    page = open_page(process.wait_for(r"^palm-serve: playground at (http://\S+)$"))
    expect(page.locator(".chip")).to_have_text(f"hi {evil}", timeout=LIMIT_MS)
    ask_for(page, "fly to boston")
    assert page.locator(".answer mark .name bdi").text_content() == evil
    assert page.locator(".answer .label").first.text_content() == f"{evil}flight"
    page.get_by_role("button", name="Correct this answer").click()
    assert page.locator("#editor mark").count() == 1
    assert page.locator("main img").count() == 0
    assert page.title() == "PALM playground"


def test_values_and_their_time_are_shown(make_tiny_bundle, reseal_bundle, start_server, open_page, tmp_path):
    bundle = make_tiny_bundle(tmp_path / "a")
    synonyms = {"boston": "<b>Boston</b>, MA"}
    content = {"tasks": {"slots": {"city": {"synonyms": synonyms, "values": [*synonyms.values()]}}}}
    (bundle / "values.json").write_text(json.dumps(content), encoding="utf-8")
    process = start_server(reseal_bundle(bundle), "--http-port", "0", "--drain-grace", "0")
    process.target()  # before it is ready, it answers 503
    page = open_page(process.wait_for(r"^palm-serve: playground at (http://\S+)$"))
    wait_until_ready(page)
    ask_for(page, "fly to boston on monday")
    heads = page.locator(".answer th").all_text_contents()
    assert heads == ["Slot", "Text", "Value", "Confidence", "Range"]
    values = page.locator(".answer tbody td:nth-child(3)").all_text_contents()
    assert [value.strip() for value in values] == ["<b>Boston</b>, MA synonym", ""]
    steps = page.locator(".timings dt").all_text_contents()
    assert steps[-2:] == ["batch", "round trip"]
    assert set(steps[:-2]) <= {"tokenize", "queue", "inference", "decode", "resolve"}


def focus(page, name: str) -> None:
    """Press Tab until an element with this name or id has the focus."""
    for _ in range(120):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "[document.activeElement.id, document.activeElement.innerText, document.activeElement.name]"
        )
        if name in found:
            return
    raise AssertionError(f"Tab never reaches {name}")


def test_correction_by_keyboard_is_saved_and_read_by_the_trainer(door, open_page, feedback, tmp_path):
    page = open_page(door.url)
    wait_until_ready(page)
    text = f"{EMOJI} go 北京 with boston"
    page.keyboard.type(text)
    expect(page.locator("#json")).to_contain_text(json.dumps(text, ensure_ascii=False), timeout=LIMIT_MS)
    found = [mark.get_attribute("aria-label").split(",")[1].strip() for mark in page.locator(".answer mark").all()]
    assert found == ["北京", "boston"]
    focus(page, "Correct this answer")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Correct the answer"
    focus(page, "intent")
    page.keyboard.press("ArrowDown")  # the next intent of the ranking
    chosen = page.locator('#editor [name="intent"]:checked').evaluate("input => input.parentElement.innerText.trim()")
    focus(page, "×")  # the mark of 北京
    page.keyboard.press("Enter")
    expect(page.locator("#editor mark")).to_have_count(1)
    focus(page, "text")
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")  # the first emoji
    expect(page.locator("#editor .selected")).to_have_text(f"“{EMOJI[0]}”")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#editor .selected")).to_have_text(f"“{EMOJI}”")
    focus(page, "Add the mark")
    page.keyboard.press("Enter")
    expect(page.locator("#editor mark")).to_have_count(2)
    focus(page, "Save as training row")
    page.keyboard.press("Enter")
    expect(page.locator("#editor .saved")).to_have_text("✓ Saved", timeout=LIMIT_MS)
    row = json.loads(feedback.read_text(encoding="utf-8").splitlines()[-1])
    assert (row["text"], row["intent"]) == (text, chosen)
    assert chosen != shown(page)["intent"]["name"]
    assert [text[span["start"] : span["end"]] for span in row["slots"]] == [EMOJI, "boston"]
    assert_plan_reads(feedback, tmp_path)


def assert_plan_reads(file: Path, folder: Path) -> None:
    """Check that `palm-train plan` reads the file without a defect."""
    more = [
        {"text": f"fly to city {n}", "intent": "flight", "slots": [{"start": 7, "end": 11, "label": "city"}]}
        for n in range(9)
    ]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more), encoding="utf-8")
    config = folder / "plan.toml"
    config.write_text(
        f"""[encoder]
model = "scratch"
max_length = 32
[data.feedback]
format = "jsonl"
train = [{json.dumps(str(folder / "more.jsonl"))}, {json.dumps(str(file))}]
dev = {json.dumps(str(folder / "more.jsonl"))}
[tasks.intent]
kind = "classify"
data = ["feedback"]
[tasks.slots]
kind = "sequence_label"
data = ["feedback"]
[train]
output = {json.dumps(str(folder / "run"))}
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-c", "from palm_trainer.cli.train import main; main()", "plan", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if str(file) in line]
    assert [line for line in told if "which no task learns" not in line] == []
    assert "city 11" in done.stdout  # two of the file


def test_selection_with_the_mouse_and_marks_of_whole_characters(door, open_page):
    page = open_page(door.url)
    wait_until_ready(page)
    ask_for(page, f"go {EMOJI} hello")
    page.get_by_role("button", name="Correct this answer").click()
    # The middle of the emoji, as a program that counts units would select it.
    page.locator("#text").evaluate("box => { box.focus(); box.setSelectionRange(4, 6); }")
    expect(page.locator("#editor .selected")).to_have_text(f"“{EMOJI}”")
    page.locator("#editor .marked").dblclick(position={"x": 12, "y": 12})
    expect(page.locator("#editor .selected")).to_have_text("“go”")
    page.get_by_role("button", name="Add the mark").click()
    assert page.locator("#editor mark .value").all_text_contents() == ["go"]
    ask_for(page, "hello")
    expect(page.locator("#editor")).to_be_hidden()  # it was of another text


def test_thresholds_are_those_of_the_request(door, open_page):
    page = open_page(door.url)
    wait_until_ready(page)
    ask_for(page, "hello")
    expect(page.locator(".fallback")).to_contain_text("No fallback")
    page.locator("#thresholds summary").click()
    page.locator("#intentConfidence").press("End")
    expect(page.locator(".fallback code")).to_have_text("LOW_CONFIDENCE", timeout=LIMIT_MS)
    assert '"intentConfidence":1' in page.locator("#snippet").text_content()
    page.locator("#reset").click()
    expect(page.locator(".fallback")).to_contain_text("No fallback", timeout=LIMIT_MS)
    page.locator("#outOfScope").press("Home")
    expect(page.locator(".fallback code")).to_have_text("OUT_OF_SCOPE", timeout=LIMIT_MS)


@pytest.mark.parametrize("kind", ["curl", "python", "node"])
def test_copied_requests_run(door, open_page, kind):
    commands = {"curl": ["bash", "-c"], "python": [sys.executable, "-c"], "node": ["node", "-e"]}
    if shutil.which(commands[kind][0]) is None or (kind == "curl" and shutil.which("curl") is None):
        pytest.skip(f"{kind} is not installed")
    page = open_page(door.url, permissions=["clipboard-read", "clipboard-write"])
    wait_until_ready(page)
    text = """it's "fly" to $HOME `boston` \\n 北京 😀"""
    expected = ask_for(page, text)
    page.locator("#code summary").click()
    page.locator(f'[data-copy="{kind}"]').click()
    expect(page.locator("#copied")).to_have_text("Copied")
    program = page.evaluate("navigator.clipboard.readText()")
    assert program == page.locator("#snippet").text_content()
    done = subprocess.run([*commands[kind], program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["text"], answer["intent"]) == (text, expected["intent"])
    assert answer.get("slots") == expected.get("slots")


def test_two_versions_side_by_side(door, open_page):
    page = open_page(door.url)
    wait_until_ready(page)
    page.locator("#version").select_option(index=1)
    page.locator("#other").select_option(index=2)
    versions = [page.locator(name).input_value() for name in ("#version", "#other")]
    page.locator("#text").fill(LONG)
    expect(page.locator(".answer")).to_have_count(2, timeout=LIMIT_MS)
    answers = [call(door, LONG, version=version) for version in versions]
    cards = page.locator(".answer").all()
    for card, answer, other in zip(cards, answers, answers[::-1], strict=True):
        spans = {(slot["name"], slot.get("start", 0)) for slot in answer.get("slots", [])}
        others = {(slot["name"], slot.get("start", 0)) for slot in other.get("slots", [])}
        assert card.locator("mark").count() == len(spans)
        assert card.locator("mark.odd").count() == len(spans - others)
        assert card.locator("header .differs").count() == (spans != others)
    assert page.locator("mark.odd").count() > 0
    page.get_by_role("tab", name="Many texts").click()
    texts = [LONG, "hello", "fly to boston", LONG + " please"]
    page.locator("#lines").fill("\n".join(texts))
    page.locator("#start").click()
    expect(page.locator("#count")).to_contain_text("4 of 4", timeout=LIMIT_MS)
    expect(page.locator("#progress")).to_be_hidden()
    page.locator('[data-key="number"]').click()
    bodies = [{"requests": [{"text": text, "version": version} for text in texts]} for version in versions]
    items = [door.post(PARSE_BATCH, body).json()["items"] for body in bodies]
    contents = [[[item["response"].get(key) for key in ("intent", "slots")] for item in version] for version in items]
    expected = []
    for one, other in zip(*contents, strict=True):
        spans = [
            [(slot["name"], slot.get("start"), slot["end"]) for slot in content[1] or []] for content in (one, other)
        ]
        expected.append(one[0]["name"] != other[0]["name"] or spans[0] != spans[1])
    assert [row.locator("td .differs").count() > 0 for row in page.locator("#rows tr").all()] == expected
    assert expected == [True, False, False, True]
    page.locator("#filter").select_option("differs")
    expect(page.locator("#rows tr")).to_have_count(2)


def test_thousand_lines(door, open_page, tmp_path):
    page = open_page(door.url)
    wait_until_ready(page)
    calls = []
    page.on("request", lambda request: calls.append(request.url.rpartition("/")[2]))
    lines = []
    for number in range(1000):
        lines.append(f"fly to {'boston' if number % 3 else 'nowhere'} number {number}")
    lines[700] = "a" * 10_001
    page.get_by_role("tab", name="Many texts").click()
    page.locator("#lines").fill("\n".join(lines))
    page.locator("#start").click()
    expect(page.locator("#count")).to_contain_text("1,000 of 1,000", timeout=LIMIT_MS * 2)
    expect(page.locator("#count")).to_contain_text("1 failed")
    assert calls.count("ParseBatch") == 20  # so that the page paints, and listens, in between
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(50)
    expect(rows.first.locator(".failed")).to_contain_text("at most 10,000 bytes")
    expect(rows.first.locator(".open")).to_have_text("701")
    shares = [float(cell.split()[0]) for cell in page.locator("#rows td:nth-child(4).number").all_text_contents()]
    assert shares == sorted(shares)
    page.locator("#filter").select_option("failed")
    expect(rows).to_have_count(1)
    page.locator("#filter").select_option("all")
    page.locator("#next").click()
    expect(page.locator("#page-number")).to_have_text("51–100 of 1,000")
    with page.expect_download() as download:
        page.locator("#export").click()
    download.value.save_as(tmp_path / "answers.jsonl")
    exported = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in exported] == lines
    assert "at most 10,000 bytes" in exported[700]["error"]
    boston = exported[1]
    assert (boston["intent"], boston["slots"]) == ("flight", [{"start": 7, "end": 13, "label": "city"}])
    page.locator("#rows .open").first.click()
    expect(page.locator("#one")).to_be_visible()
    assert page.locator("#text").input_value().startswith("fly to")


def test_files_of_texts(door, open_page):
    page = open_page(door.url)
    wait_until_ready(page)
    page.get_by_role("tab", name="Many texts").click()
    for name, content, lines in (
        ("a.csv", 'id,Text\n1,"fly, to ""boston"""\r\n2,"two\nlines"\n', ['fly, to "boston"', "two lines"]),
        ("a.tsv", "one\tx\ntwo\ty\n", ["one", "two"]),
        ("a.jsonl", '\ufeff{"text": "北京"}\n\n{"text": "b"}\n', ["北京", "b"]),
        ("a.txt", "a b\r\n\r\nc\n", ["a b", "c"]),
    ):
        page.locator("#file").set_input_files({"name": name, "mimeType": "text/plain", "buffer": content.encode()})
        expect(page.locator("#count")).to_have_text(f"2 lines of {name}")
        assert page.locator("#lines").input_value().split("\n") == lines
    page.locator("#file").set_input_files({"name": "b.jsonl", "mimeType": "text/plain", "buffer": b"{"})
    expect(page.locator("#count")).to_contain_text("b.jsonl is not JSON")


def test_narrow_dark_and_still(door, open_page):
    page = open_page(door.url, viewport={"width": 320, "height": 640}, color_scheme="dark", reduced_motion="reduce")
    wait_until_ready(page)
    page.locator(".chip").first.click()
    expect(page.locator(".answer")).to_be_visible()
    for name in ("thresholds", "code", "raw"):
        page.locator(f"#{name} summary").click()
    page.get_by_role("button", name="Correct this answer").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert max(red, green, blue) < 60
    style = "getComputedStyle(document.querySelector('.track'), '::before').transitionDuration"
    assert page.evaluate(style) == "0s"
    page.get_by_role("tab", name="Many texts").click()
    page.locator("#lines").fill(f"{LONG}\nhello")
    page.locator("#start").click()
    expect(page.locator("#rows tr")).to_have_count(2, timeout=LIMIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_text_from_right_to_left_is_laid_out_so(door, open_page):
    page = open_page(door.url)
    wait_until_ready(page)
    ask_for(page, "מ boston ב monday")
    assert page.locator(".answer .marked").evaluate("line => getComputedStyle(line).direction") == "rtl"
    city, day = page.locator(".answer mark").all()
    assert city.bounding_box()["x"] > day.bounding_box()["x"]
    ask_for(page, "boston on monday")
    city, day = page.locator(".answer mark").all()
    assert city.bounding_box()["x"] < day.bounding_box()["x"]


def test_nothing_typed_is_drawn(door, open_page):
    page = open_page(door.url)
    wait_until_ready(page)
    expect(page.locator("#empty")).to_be_visible()
    ask_for(page, "hello")
    expect(page.locator("#empty")).to_be_hidden()
    page.locator("#text").fill("  ")
    expect(page.locator("#empty")).to_be_visible()
    assert page.locator(".answer").count() == 0


def test_errors_are_drawn(door, open_page):
    page = open_page(door.url, is_broken=True)
    wait_until_ready(page)
    page.locator("#text").fill("a" * 10_001)
    expect(page.locator("#notice")).to_contain_text("at most 10,000 bytes", timeout=LIMIT_MS)
    ask_for(page, "hello")
    expect(page.locator("#notice")).to_be_hidden()


def test_missing_token_is_asked_for(make_door, open_page, tmp_path):
    content = ""
    secrets = {}
    for name, scopes in (("all", ["parse", "read", "feedback"]), ("parse", ["parse"])):
        secrets[name], digest = new_token()
        content += f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = {json.dumps(scopes)}\n'
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(content)
    door = make_door("--tokens", tokens)
    for name in secrets:
        page = open_page(door.url, is_broken=True)
        expect(page.locator("#state")).to_have_text("Token needed", timeout=LIMIT_MS)
        expect(page.locator("#notice")).to_contain_text("asks for a token")
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type("wrong")
        page.get_by_role("button", name="Use this token").click()
        expect(page.locator("#notice")).to_contain_text("unknown to this server", timeout=LIMIT_MS)
        page.locator("#token").fill(secrets[name])
        page.keyboard.press("Enter")
        wait_until_ready(page)
        ask_for(page, "hello")
        expect(page.locator(".chip")).to_have_count(3 if name == "all" else 0)
        for kind in ("curl", "python", "node"):
            page.locator("#code").evaluate("part => { part.open = true; }")
            page.locator(f'[data-copy="{kind}"]').click()
            program = page.locator("#snippet").text_content()
            assert secrets[name] not in program
            assert "PALM_TOKEN" in program


def test_end_and_return_of_the_server_are_drawn(make_door, open_page):
    door = make_door("--stop-timeout", "5", "--drain-grace", "8")
    page = open_page(door.url, is_broken=True)
    wait_until_ready(page)
    door.process.process.send_signal(signal.SIGTERM)
    expect(page.locator("#state")).to_have_text("Draining", timeout=LIMIT_MS)
    expect(page.locator("#notice")).to_contain_text("about to stop")
    expect(page.locator("#state")).to_have_text("Offline", timeout=LIMIT_MS)
    page.locator("#text").fill("fly to boston")
    expect(page.locator("#notice")).to_contain_text("does not answer", timeout=LIMIT_MS)
    assert door.process.finish() == 0
    make_door("--http-port", str(door.port))
    wait_until_ready(page)
    expect(page.locator(".answer mark .value")).to_have_text("boston", timeout=LIMIT_MS)
