"""The generated parts: page and name of each, and what writes it. Writing and comparing of pages."""

import re
from collections.abc import Callable
from pathlib import Path

from reference_pages import (
    arguments,
    bundles,
    command_line,
    configuration,
    failures,
    http_api,
    metrics,
    protocols,
    python_api,
    registries,
    run_directories,
    server_options,
)

PAGES = Path(__file__).parents[1] / "reference"
COMMAND = "python docs/reference_pages"

PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("cli", "commands"): command_line.commands,
    ("configuration", "encoder"): configuration.encoder,
    ("configuration", "data"): configuration.data,
    ("configuration", "tasks"): configuration.tasks,
    ("configuration", "train"): configuration.train,
    ("configuration", "moved"): configuration.moved,
    ("server_options", "options"): server_options.options,
    ("metrics", "metrics"): metrics.metrics,
    ("metrics", "process"): metrics.process,
    ("formats", "formats"): registries.formats,
    ("components", "components"): registries.components,
    ("grpc", "palm-services"): protocols.palm_services,
    ("grpc", "palm-messages"): protocols.palm_messages,
    ("grpc", "inference-services"): protocols.inference_services,
    ("grpc", "inference-messages"): protocols.inference_messages,
    ("http", "routes"): http_api.routes,
    ("http", "models"): http_api.models,
    ("errors", "statuses"): failures.statuses,
    ("errors", "serving-errors"): failures.serving_errors,
    ("errors", "training-errors"): failures.training_errors,
    ("bundle", "manifest"): bundles.manifest,
    ("run_directory", "model"): run_directories.model_description,
    ("run_directory", "events"): run_directories.events,
    ("python_client", "names"): python_api.client,
    ("python_trainer", "names"): python_api.training,
    ("differences_from_palm", "unused"): arguments.unused,
}
"""Page and name of each generated part -> function that returns its Markdown.

A page has the part between the comments `<!-- NAME -->` and `<!-- /NAME -->`.
"""


def page_names() -> list[str]:
    """Return the names of the pages with generated parts."""
    return sorted({page for page, _ in PARTS})


def read_page(page: str) -> str:
    """Return a page as it is committed."""
    return (PAGES / f"{page}.md").read_text(encoding="utf-8")


def make_page(page: str) -> str:
    """Return a page with its generated parts as they should be.

    Raises:
        ValueError: the page lacks the comments of a part.
    """
    text = read_page(page)
    for (owner, name), write in PARTS.items():
        if owner == page:
            text = _replaced(text, name, write())
    return text


def _replaced(text: str, name: str, content: str) -> str:
    start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"the page must have {start.strip()} and {end.strip()} once. Add both, on lines of their own.")
    return pattern.sub(lambda _: f"{start}\n{content}\n{end}", text)
