"""All pages: their names, what makes them, their texts, and the table of README."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common import ROOT

from pages import (
    cost_growth,
    data_health,
    export,
    few_shot,
    out_of_scope,
    overview,
    quality,
    robustness,
    serving,
    tools,
    training_speed,
    values,
)
from pages.parts import Content, Results
from pages.plot_data import Plot, file_names

COMMAND = "python benchmarks/pages"
PAGES_FOLDER = "docs/benchmarks"
PLOTS_FOLDER = f"{PAGES_FOLDER}/plots"
README = "README.md"
_MARK = "results"
TEXTS = Path(__file__).with_name("texts")
PAGES: Mapping[str, Callable[[Results], Content]] = {
    "quality": quality.build,
    "few_shot": few_shot.build,
    "tools_that_did_not_help": tools.build,
    "training_speed": training_speed.build,
    "export": export.build,
    "serving_beside_peers": serving.build,
    "overload_and_soak": robustness.build,
    "cost_growth": cost_growth.build,
    "values": values.build,
    "data_health": data_health.build,
    "out_of_scope": out_of_scope.build,
}
"""Name of each page -> what makes its tables and plots, in the order of the index."""
_PLACE = re.compile(r"\{\{ (plot:)?(\w+) \}\}")


class UnknownResultsError(Exception):
    """A results file that no page uses."""


@dataclass(frozen=True)
class Book:
    """What is written.

    Args:
        pages: text of each page by its path below the repository.
        plots: by their name.
        readme: table of results in README.
    """

    pages: Mapping[str, str]
    plots: Mapping[str, Plot]
    readme: str


def build(results: Results) -> Book:
    """Make all pages from the results.

    Raises:
        UnknownResultsError: a results file is used by no page.
    """
    contents = {name: make(results) for name, make in PAGES.items()}
    unknown = sorted(results.files.keys() - results.asked)
    if unknown:
        files = ", ".join(f"benchmarks/results/{name}.json" for name in unknown)
        raise UnknownResultsError(
            f"every results file must be used by a page, got {files}. Add it to a page of {COMMAND}."
        )
    titles = {name: title_of(name) for name in PAGES}
    contents = {"index": overview.build(titles, contents), **contents}
    pages, plots = {}, {}
    for name, content in contents.items():
        pages[f"{PAGES_FOLDER}/{name}.md"] = render(name, content)
        for plot in content.plots.values():
            plots[plot.name] = plot
    return Book(pages, plots, overview.readme_table(contents))


def title_of(name: str) -> str:
    """Return the heading of a page."""
    return text_of(name).partition("\n")[0].removeprefix("# ")


def text_of(name: str) -> str:
    """Return the prose of a page, with the places for its blocks."""
    return (TEXTS / f"{name}.md").read_text(encoding="utf-8")


def render(name: str, content: Content) -> str:
    """Return a page: its prose with the blocks and pictures in their places.

    Raises:
        KeyError: the prose names a block that the page does not make.
    """

    def fill(place: re.Match[str]) -> str:
        if place[1] is None:
            return content.blocks[place[2]]
        plot = content.plots.get(place[2])
        return picture(plot) if plot else ""

    origin = f"{TEXTS.relative_to(ROOT).as_posix()}/{name}.md"
    comment = f"<!-- Written by `{COMMAND}`. Change {origin} and run it again. -->"
    text = f"{comment}\n\n{_PLACE.sub(fill, text_of(name))}"
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def picture(plot: Plot) -> str:
    """Return the HTML of a plot, which code hosts read, and which docs/_extensions makes two images of.

    Raises:
        ValueError: the alternative text holds characters that have a meaning there.
    """
    if re.search(r'["<>&]|: ', plot.alt):
        raise ValueError(f"the alternative text must be without quotes, <, >, & and colons, got {plot.alt}")
    names = file_names(plot)
    return (
        f'<picture>\n<source media="(prefers-color-scheme: dark)" srcset="plots/{names["dark"]}">\n'
        f'<img src="plots/{names["light"]}" alt="{plot.alt}">\n</picture>'
    )


def fill_readme(text: str, results: str) -> str:
    """Return README with the table of results between its markers, `<!-- results -->` and `<!-- /results -->`."""
    marked = re.compile(f"(<!-- {_MARK} -->).*?(<!-- /{_MARK} -->)", re.DOTALL)
    return marked.sub(lambda match: f"{match[1]}\n\n{results}\n\n{match[2]}", text)
