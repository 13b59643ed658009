"""Settings of the documentation's site: `make docs` builds it into build/docs, without a network."""

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]
_PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "PALM"
author = "The PALM founders"
project_copyright = author
release = version = _PROJECT["version"]
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "palm_references", "repository_links"]
exclude_patterns = ["_static", "_extensions", "images"]

# Links to headings, `page.md#the-heading`, work as on a code host.
myst_heading_anchors = 6

default_role = "code"  # what docstrings have in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
smartquotes = False  # "--option" would become a dash
nitpicky = True
# Types of signatures that a user neither makes nor takes apart.
nitpick_ignore = [
    ("py:class", "palm_trainer.api.reader.base_reader._TakesInputs"),
    ("py:class", "palm_trainer.data.dataset.TrainingBatch"),
]
# Types of other packages are described elsewhere.
nitpick_ignore_regex = [("py:.*", r"(?!palm_).*")]

html_theme = "furo"
html_title = f"PALM {release}"
html_static_path = ["_static"]
html_css_files = ["palm.css"]
html_copy_source = False
html_show_sphinx = False
# Extracts below the results of a search are fetched, which browsers refuse for pages that were opened as files.
html_show_search_summary = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
