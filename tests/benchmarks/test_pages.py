"""The pages of docs/benchmarks and the table of README: they are what the script makes from benchmarks/results."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
PICTURES = ROOT / "docs/benchmarks/plots"
MAX_PICTURE_BYTES = 40_000
FIGURE = re.compile(r"(?<![\w.`%-])\d+(?:[.,]\d+)?(?![\w-])")
"""A number that stands alone in prose: not `int8`, `MiniLM-L6` or `BANKING77`."""


@pytest.fixture(scope="module")
def book():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        from pages.book import build
        from pages.parts import Results

        return build(Results.read(RESULTS))


def build_from(files):
    from pages.book import build
    from pages.parts import Results

    return build(Results(files))


def committed():
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}


def page(book, name):
    return book.pages[f"docs/benchmarks/{name}.md"]


def row_of(text, begin):
    """Return the columns of the first table row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {begin}"))
    return [column.strip() for column in line.strip("|").split("|")]


def test_committed_pages_are_what_the_script_makes(book):
    for path, text in book.pages.items():
        found = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
        assert found == text, f"{path} is not what `python benchmarks/pages` makes from the results. Run it."


def test_readme_holds_the_table_of_the_results(book):
    from pages.book import fill_readme

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- results -->" in readme
    assert fill_readme(readme, book.readme) == readme, "Run `python benchmarks/pages`."


def test_committed_pictures_show_the_results(book):
    from pages.plot_data import digest_line, file_names

    pictures = {name: plot for plot in book.plots.values() for name in file_names(plot).values()}
    assert {path.name for path in PICTURES.glob("*.svg")} == set(pictures)
    for name, plot in pictures.items():
        svg = (PICTURES / name).read_text(encoding="utf-8")
        assert digest_line(plot) in svg, f"{name} shows other figures. Run `python benchmarks/pages`."


def test_committed_pictures_are_small_and_their_text_is_text():
    for path in PICTURES.glob("*.svg"):
        svg = path.read_text(encoding="utf-8")
        assert len(svg.encode()) <= MAX_PICTURE_BYTES, path.name
        assert svg.count("</text>") > 5
        assert not re.search(r"#0([1-7])0(?:\1)0(?:\1)\b", svg), f"{path.name}: a colour of neither scheme"
        assert "<dc:date>" not in svg
        assert ("#1f2328" in svg, "#e6edf3" in svg) == (path.stem.endswith("light"), path.stem.endswith("dark"))


def test_every_plot_stands_on_a_page_with_its_figures(book):
    text = "\n".join(book.pages.values())
    for plot in book.plots.values():
        assert f'<img src="plots/{plot.name}_light.svg" alt="{plot.alt}">' in text
        assert f'srcset="plots/{plot.name}_dark.svg"' in text
        assert len(plot.alt) > len(plot.title) + 10


def test_alternative_text_with_markup_is_refused():
    from pages.book import picture
    from pages.plot_data import Dots, Panel, Point

    with pytest.raises(ValueError, match="must be without quotes"):
        picture(Dots("x", 'a "title"', ("label",), (Panel("panel", (Point(1.0),)),)))


def test_every_page_but_the_index_has_a_plot(book):
    for path, text in book.pages.items():
        if not path.endswith(("index.md", "few_shot.md")):
            assert "<picture>" in text, path


def test_results_file_that_no_page_uses_is_refused():
    from pages.book import UnknownResultsError

    with pytest.raises(UnknownResultsError, match=r"benchmarks/results/weather\.json"):
        build_from({**committed(), "weather": {}})


def test_results_that_are_missing_are_told_with_their_command():
    book = build_from({})
    for path, text in book.pages.items():
        name = Path(path).stem
        if name != "index":
            assert "**Not measured yet.**" in text, path
            assert "```sh" in text, path
    assert book.plots == {}
    assert row_of(book.readme, "[Training speed")[1:] == ["at least 1.15", "", "not measured yet"]


def test_results_that_change_change_page_and_digest(book):
    from pages.plot_data import digest

    files = committed()
    files["train_speed"]["rounds"]["hf_trainer"] = [1.0, 1.1]
    other = build_from(files)
    assert row_of(page(other, "training_speed"), "times Hugging Face Trainer")[1:] == [
        "at least 1.15",
        "1.05 (1.00 to 1.10)",
        "missed",
    ]
    assert row_of(other.readme, "[Training speed")[-1] == "missed"
    assert "times Hugging Face Trainer" in page(other, "index").split("## Goals that were missed")[1]
    files["train_speed"]["examples_per_s"]["palm"] = [100.0, 101.0]
    changed = build_from(files).plots["training_speed"]
    assert digest(changed) != digest(book.plots["training_speed"])
    shifted = copy.deepcopy(committed())
    shifted["train_speed"]["examples_per_s"]["palm"][0] += 1e-9
    same = build_from(shifted).plots["training_speed"]
    assert digest(same) == digest(book.plots["training_speed"])


@pytest.mark.parametrize(("exact", "verdict"), [(87.0, "missed"), (89.0, "met")])
def test_goals_are_judged_by_the_results(exact, verdict):
    files = committed()
    for name, cell in files["quality"].items():
        if name.startswith("atis/minilm/"):
            cell["test"]["exact_match"] = exact
    book = build_from(files)
    assert row_of(book.readme, "[ATIS, intent and all")[1:] == ["at least 88.4", f"{exact:.2f} ± 0.00", verdict]
    missed = page(book, "index").split("## Goals that were missed")[1].split("## ")[0]
    assert ("| ATIS, MiniLM-L6: exact match" in missed) == (verdict == "missed")


def test_ratios_of_servers_are_those_that_the_benchmark_told(book):
    text = page(book, "serving_beside_peers")
    tables = {
        "64 in flight": text.split("| 64 calls in flight")[1],
        "256 in flight": text.split("| 256 calls in flight")[1],
    }
    equal_p99 = text.split("| PALM to it within its p99")[1]
    titles = {"PyTriton": "Triton (PyTriton)", "control (PALM)": "PALM again (control)"}
    for name, ratios in committed()["peers"]["ratios"].items():
        title = titles.get(name, name)
        for how, rest in tables.items():
            assert row_of(rest, f"{title} ")[-1] == ratios[how]["told"]
        assert row_of(equal_p99, f"{title} ")[1:] == [ratios[f"within its p99 at {n}"]["told"] for n in (64, 256)]


def test_readme_table_has_six_to_eight_rows(book):
    rows = [line for line in book.readme.splitlines() if line.startswith("| [")]
    assert 6 <= len(rows) <= 8
    for row in rows:
        (link,) = re.findall(r"\]\(([^)]+)\)", row)
        assert (ROOT / link).exists()


def few_shot_cell(row, arm, seed, correct):
    from paired_bootstrap import pack

    scores = {"test": {"accuracy": 100 * sum(correct) / len(correct)}, "texts": len(correct), "correct": pack(correct)}
    facts = {"seed": seed, "fold": None, "commit": "0123456789ab", "machine": "a machine"}
    return f"{row}/{arm}/seed{seed}", {"task": row, "variant": arm, **facts, **scores}


def test_few_shot_page_fills_when_its_results_come():
    better, worse = [True] * 90 + [False] * 10, [True] * 80 + [False] * 20
    cells = [few_shot_cell("banking77_5", "multi", seed, better) for seed in (13, 14)]
    cells += [few_shot_cell("banking77_5", "plain", seed, worse) for seed in (13, 14)]
    book = build_from({"fewshot": dict(cells)})
    text = page(book, "few_shot")
    assert "Not measured yet" not in text
    assert "<!-- fewshot -->\nAccuracy on test" in text
    assert "Commit: `0123456`" in text
    gain = row_of(text, "BANKING77 5")
    assert gain[1] == "`multi` - `plain` (primary)"
    assert gain[3].startswith("+10.00 (")
    (accuracy, difference) = (book.plots[name] for name in ("few_shot", "few_shot_gain"))
    assert accuracy.labels == ("plain", "multi")
    assert [point.goal for point in accuracy.panels[0].points] == [82.5, 84.0]
    assert difference.panels[0].points[0].value == pytest.approx(10)
    assert difference.panels[0].points[0].goal == 1.0
    told = row_of(book.readme, "[BANKING77 after five")
    assert told[1] == "at least 84 %"
    assert told[2].startswith("90.00 (")
    assert told[3] == "met"


def test_gain_below_its_goal_or_not_above_zero_is_missed():
    from pages.few_shot import goals

    same = [True] * 50 + [False] * 50
    cells = dict(few_shot_cell("banking77_5", arm, 13, same) for arm in ("multi", "plain"))
    gain = next(goal for goal in goals(cells) if goal.what == "BANKING77 5 examples an intent, `multi` - `plain`")
    assert (gain.reached, gain.verdict) == ("+0.00 (+0.00 to +0.00)", "missed")


def test_context_part_fills_when_its_results_come():
    import context

    def scores(level):
        return {key: level for key, _ in context.SCORES}

    cells = {}
    for arm, levels in (("with", (80.0, 82.0)), ("without", (40.0, 41.0))):
        for seed, level in zip((13, 14), levels, strict=True):
            facts = {"task": "context", "variant": arm, "seed": seed, "fold": None, "commit": "ab12cd34ef56"}
            cells[f"context/{arm}/seed{seed}"] = {**facts, "machine": "a machine", "test": scores(level)}
    book = build_from({"context": cells})
    text = page(book, "quality").split("## What was said before")[1]
    assert row_of(text, "answers: exact match")[1:] == ["40.50", "81.00", "+40.50 (+34.14 to +46.86)"]
    point = book.plots["context"].panels[0].points[0]
    assert (point.value, point.low, point.high) == pytest.approx((40.5, 34.145, 46.855))
    cells.pop("context/with/seed14")
    one = build_from({"context": cells})
    assert row_of(page(one, "quality").split("## What was said before")[1], "answers: exact match")[3] == "+40.00"


def test_soak_beside_a_bare_server_is_told():
    soak = committed()["soak"]
    looks = [[100.0, 17, 13, 1.0], [102.0, 17, 13, 2.0]]
    soak["growth"]["memory_mib"] = 14.0
    soak["bare"] = {"growth": {"memory_mib": 3.0}, "codes": {}, "looks": looks}
    book = build_from({"soak": soak})
    told = row_of(page(book, "overload_and_soak"), "soak: memory gained beyond")
    assert told[1:] == ["11.0", "at most 10", "missed"]
    lines = book.plots["memory"].axes[0].lines
    assert [line.label for line in lines] == ["server", "bare gRPC server"]


def test_cost_growth_fills_part_by_part():
    facts = {"machine": "a machine", "commit": "0123456789ab", "date": "2026-11-30"}
    rows = {**facts, "x": [1000, 1_000_000], "seconds": [6.0, 71.5], "memory_mib": [900.0, 1900.0]}
    labels = {**facts, "x": [2, 10_000], "ms": [4.0, 5.5], "cpu_ms": [3.9, 5.4], "mib": [90.0, 105.0]}
    book = build_from({"cost_growth": {"parts": {"rows": rows, "labels": labels}}})
    text = page(book, "cost_growth")
    assert row_of(text, "10,000")[1:] == ["5.50", "5.40", "105.00"]
    assert "Machine: a machine. Commit: `0123456`. Date: 2026-11-30. Results:" in text
    assert row_of(text, "1,000,000 ")[1:] == ["1,900.00", "71.50"]
    assert row_of(text, "1,000,000 rows: memory beyond")[1:] == ["at most 2048", "1,000", "met"]
    assert row_of(text, "1,000,000 rows: first step")[1:] == ["at most 60", "71.5", "missed"]
    assert "Not measured yet" in text.split("## Models in a server")[1].split("##")[0]
    assert [axes.x_label for axes in book.plots["cost_growth_parts"].axes] == [
        "labels of a task",
        "rows of training data",
    ]


def test_gain_of_the_chinese_encoder_is_held_against_its_goal():
    cells = {}
    for variant, level in (("single", 80.0), ("e5", 82.5)):
        for seed in (13, 14, 15):
            test = {"exact_match": level + seed}
            cell = {"task": "cais", "variant": variant, "seed": seed, "fold": None, "dev": test, "test": test}
            cells[f"cais/{variant}/seed{seed}"] = cell
    index = page(build_from({"tasks": cells}), "index")
    missed, waiting = index.split("## Goals that were missed")[1].split("## Goals that nobody has measured yet")
    assert "CAIS exact match: `e5-small-zh` minus `scratch` | at least +3 points |" in re.sub(" +", " ", missed)
    assert "+2.50 (+2.50 to +2.50)" in missed
    assert "ChnSentiCorp accuracy: `e5-small-zh` minus `scratch`" in waiting


def test_restarts_and_calls_over_http_are_told_when_measured():
    restarts = {"restart_s": [2.0, 4.0, 3.0], "codes": {"OK": 998, "UNAVAILABLE": 2}, "failed": 2, "exits": {"0": 3}}
    cost = {"rounds": {"grpc_cpu_ms": [0.5], "proto_ratio": [0.6, 0.8], "oip_ratio": [1.5, 1.4]}}
    book = build_from({"envoy": restarts, "http_cost": cost})
    text = page(book, "overload_and_soak")
    assert row_of(text, "calls")[1] == "1,000"
    assert row_of(text, "restarts: failed calls")[1:] == ["2", "at most 0", "missed"]
    assert row_of(text, "restarts: servers that did not drain")[1:] == ["0", "at most 0", "met"]
    text = page(book, "serving_beside_peers")
    assert row_of(text, "Connect, bytes, to gRPC")[1:] == ["0.70 (0.60 to 0.80)", "at most 1.3", "met"]
    assert row_of(text, "Open Inference Protocol")[1:] == ["1.45 (1.40 to 1.50)", "at most 1.3", "missed"]


def test_fairness_is_told_when_measured():
    rounds = {"capacity_per_s": [640.0, 320.0], "batch_ms": [100.0, 200.0], "alone_answered": [100.0, 100.0]}
    rounds |= {"alone_p99_ms": [40.0, 60.0]}
    for name, answered, p99_ms in (("1,000 Parse", 99.5, [200.0, 600.0]), ("64 ParseBatch", 80.0, [float("inf")] * 2)):
        rounds |= {f"{name}: answered": [answered] * 2, f"{name}: p99_ms": p99_ms}
        rounds |= {f"{name}: p50_ms": [20.0, 30.0], f"{name}: texts_per_s": [500.0, 300.0]}
    facts = {"machine": "a machine", "commit": "0123456789ab", "deadline_s": 0.0, "rounds": rounds}
    text = page(build_from({"fairness": facts}), "overload_and_soak")
    assert row_of(text, "capacity, calls/s")[1] == "480 (320 to 640)"
    assert row_of(text, "beside 1,000 Parse: answered, %")[1:] == ["99.5 (99.5 to 99.5)", "at least 99", "met"]
    assert row_of(text, "beside 1,000 Parse: p99, full batches")[1:] == ["2.5 (2.0 to 3.0)", "at most 3", "met"]
    assert row_of(text, "beside 64 ParseBatch: answered, %")[1:] == ["80.0 (80.0 to 80.0)", "at least 99", "missed"]
    assert row_of(text, "beside 64 ParseBatch: p99, full batches")[3] == "missed"
    assert "Machine: a machine. Commit: `0123456`." in text.split("## A client that floods")[1]
    text = page(build_from({}), "overload_and_soak").split("## A client that floods")[1]
    assert "Not measured yet" in text.split("##")[0]


def test_admission_is_told_when_measured():
    def measurement(to_best, refused_ms):
        loads = []
        for times in (0.5, 3.0):
            figures = {"goodput_per_s": {"own": 90.0, "16": 100.0}, "best_queue": 16, "to_best": to_best}
            loads.append({"times": times, "kept": 0.99, "refused_ms": refused_ms, "codes": {}, **figures})
        return {"2 busy processes": {"capacity_per_s": 100.0, "loads": loads, "doubtful_loads": 0}}

    facts = {"machine": "a machine", "commit": "0123456789ab", "missing": {"1.5 cores": "not allowed"}}
    facts["rounds"] = [measurement(0.9, 4.0), measurement(1.02, 20.0)]
    text = page(build_from({"admission": facts}), "overload_and_soak")
    begin = "admission: 2 busy processes, 3 times the capacity,"
    assert row_of(text, f"{begin} in time")[1:] == ["0.96 (0.90 to 1.02)", "at least 0.95", "met"]
    assert row_of(text, f"{begin} refusals")[1:] == ["12.0 (4.0 to 20.0)", "at most 10", "missed"]
    assert row_of(text, "1.5 cores: not measured, not allowed")
    text = page(build_from({}), "overload_and_soak").split("## A machine that is shared")[1]
    assert "Not measured yet" in text.split("##")[0]


def test_prose_of_pages_has_no_figures():
    """Every figure comes from a results file. Commands, names in backticks and the level of intervals are not figures."""
    texts = sorted((ROOT / "benchmarks/pages/texts").glob("*.md"))
    assert len(texts) == 12
    for path in texts:
        prose = re.sub(r"```.*?```|`[^`]*`|95 %", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        found = [line for line in prose.splitlines() if FIGURE.search(line)]
        assert not found, f"{path.name}: {found}"


def test_commands_of_pages_name_scripts_and_their_options(book):
    commands = []
    for path, text in book.pages.items():
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
            commands += [(path, command) for command in block.replace("\\\n", " ").splitlines()]
    known = (ROOT / "benchmarks/serving/processes.py").read_text(encoding="utf-8")
    checked = 0
    for path, command in commands:
        script = re.search(r"benchmarks[/.][\w/]+(?:\.py)?", command.partition(" --")[0])
        if script is None or script[0] == "benchmarks/pages":
            continue
        name = script[0] if script[0].endswith(".py") else script[0].replace(".", "/") + ".py"
        source = (ROOT / name).read_text(encoding="utf-8") + known
        for option in re.findall(r" --([a-z-]+)", command):
            assert f'"--{option}"' in source or re.search(rf"\b{option}=", source), f"{path}: {command}"
            checked += 1
    assert checked > 20


def test_pages_name_every_script_that_measures(book):
    told = "\n".join(book.pages.values())
    checked = 0
    for path in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks/serving").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and re.search(r'"--json"|"--results"|finish\(arguments', text):
            name = path.relative_to(ROOT).as_posix()
            assert name in told or name.removesuffix(".py").replace("/", ".") in told, name
            checked += 1
    assert checked > 20


def test_check_option_ends_with_zero_on_committed_pages():
    done = subprocess.run(
        [sys.executable, "benchmarks/pages", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_drawing_twice_gives_the_same_bytes(book):
    pytest.importorskip("matplotlib", reason="it is in the extra docs")
    from pages.draw import draw

    for name in ("data_health", "cost_growth"):
        pictures = draw(book.plots[name])
        assert pictures == draw(book.plots[name])
        assert pictures["light"] != pictures["dark"]
