"""README is short and plain, its figures are those of the results, and its configuration is valid. README.zh.md says the same."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from palm_serve.bundle.manifest import KINDS
from palm_trainer.config.loader import load_config
from palm_trainer.data.formats import FORMATS
from palm_trainer.tokenization.encoder_files import NAMES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
READMES = ("README.md", "README.zh.md")
MOST_LINES = 150
MOST_WORDS = 1200
CONFIGURATION_LINES = 20


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def load(path: Path) -> ModuleType:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def figures_of_quality() -> list[str]:
    """Exact match of ATIS, the mean over the seeds."""
    values = [
        cell["test"]["exact_match"]
        for cell in results("quality").values()
        if (cell["task"], cell["variant"]) == ("atis", "minilm")
    ]
    return [f"{sum(values) / len(values):.2f}"]


def figures_of_export() -> list[str]:
    """Speed of the fastest form against the plain graph, the mean of the shapes."""
    means = results("export_speed")["means"]
    [best] = [mean for name, mean in means.items() if name.startswith("best (")]
    return [f"{best:.2f}"]


def figures_of_peers() -> list[str]:
    """Calls in flight, the smallest ratio of PALM's calls to those of another server, and how many there are."""
    ratios = {name: ratio["64 in flight"] for name, ratio in results("peers")["ratios"].items() if "PALM" not in name}
    closest = min(ratios.values(), key=lambda ratio: sum(ratio["rounds"]) / len(ratio["rounds"]))
    return ["64", *closest["told"].split(" ± "), str(len(ratios))]


def figures_of_swaps() -> list[str]:
    """Swaps, failed or refused calls, and all calls."""
    swaps = results("swaps")
    failed = sum(swaps["rounds"]["failed_calls"]) + sum(swaps["rounds"]["refused_calls"])
    return [str(len(swaps["swap_s"])), str(failed), f"{sum(swaps['rounds']['calls']):,}"]


def figures_of_out_of_scope() -> list[str]:
    """Refused texts in per cent: of those outside the domain, and of those inside."""
    outcome = results("out_of_scope")
    return [f"{outcome[side]['refused']:.1f}" for side in ("outside", "inside")]


FIGURES = {
    "quality.md": figures_of_quality,
    "export.md": figures_of_export,
    "serving_beside_peers.md": figures_of_peers,
    "overload_and_soak.md": figures_of_swaps,
    "out_of_scope.md": figures_of_out_of_scope,
}


@pytest.mark.parametrize("page", READMES)
@pytest.mark.parametrize("target", FIGURES)
def test_figures_of_the_reasons_are_those_of_the_results(page: str, target: str) -> None:
    [line] = [
        line for line in read(page).splitlines() if line.startswith("- **") and f"docs/benchmarks/{target}" in line
    ]
    text = re.sub(r"\]\([^)]*\)", "]", line)
    assert sorted(re.findall(r"(?<![A-Za-z\d.,])\d(?:[\d.,]*\d)?", text)) == sorted(FIGURES[target]())


@pytest.mark.parametrize("page", READMES)
def test_every_reason_has_a_figure(page: str) -> None:
    assert len([line for line in read(page).splitlines() if line.startswith("- **")]) == len(FIGURES)


@pytest.mark.parametrize("page", READMES)
def test_readme_is_short(page: str) -> None:
    text = read(page)
    assert len(text.splitlines()) <= MOST_LINES
    assert len(text.split()) <= MOST_WORDS


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/tutorials/*.md"))]
)
def test_sentences_are_short(page: str) -> None:
    assert load(ROOT / ".ci" / "sentences.py").long_sentences(read(page)) == []


@pytest.mark.parametrize("page", READMES)
def test_configuration_is_valid(page: str, tmp_path: Path) -> None:
    [block] = blocks(read(page), "toml")
    assert len([line for line in block.splitlines() if line]) <= CONFIGURATION_LINES
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "my.toml").write_text(block, encoding="utf-8")
    config = load_config(tmp_path / "my.toml")
    assert sorted(config.tasks) == ["intent", "slots"]
    assert all(Path(file).is_file() for file in config.data["assistant"].train)


def test_both_readmes_have_the_same_code_and_pictures() -> None:
    english, chinese = (read(page) for page in READMES)
    assert blocks(english, "sh") == blocks(chinese, "sh")
    assert [tomllib.loads(block) for block in blocks(english, "toml")] == [
        tomllib.loads(block) for block in blocks(chinese, "toml")
    ]
    for pattern in (r"^\|.*?(`[^`]*(?:localhost|bundles/mine|wake me)[^`]*`)", r"!\[[^\]]*\]\(([^)]*)\)"):
        assert re.findall(pattern, english, re.MULTILINE) == re.findall(pattern, chinese, re.MULTILINE)
    assert len(re.findall(r"^## ", english, re.MULTILINE)) == len(re.findall(r"^## ", chinese, re.MULTILINE))


@pytest.mark.parametrize(("page", "other"), [READMES, READMES[::-1]])
def test_readmes_link_each_other(page: str, other: str) -> None:
    assert f"]({other})" in read(page)


@pytest.mark.parametrize("page", READMES)
def test_table_of_support_is_that_of_the_registries(page: str) -> None:
    rows = [line for line in read(page).splitlines() if line.startswith("| ")]
    tasks, encoders, data = rows[rows.index("| | |") + 1 :][:3] if "| | |" in rows else rows[-6:-3]
    assert set(re.findall(r"`(\w+)`", tasks)) == set(KINDS)
    assert {*NAMES, "scratch"} == set(re.findall(r"`([\w-]+)`", encoders))
    assert re.findall(r"\d+", re.sub(r"\]\([^)]*\)", "", data)) == [str(len(FORMATS))]
