"""Lead references from docstrings to the pages of the reference that describe what they name.

Messages, errors and the manifest are described by tables, not by Sphinx's own directives.
"""

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from palm_serve import errors as serving
from palm_trainer import errors as training

_ERRORS = {
    "palm_serve": (serving, "errors-of-palm-serve"),
    "palm_trainer": (training, "errors-of-palm-trainer"),
}
_MESSAGES = "palm_serve.v1.palm_pb2."
_MANIFEST = "palm_serve.bundle.manifest.Manifest"


def place_of(target: str, module: str) -> tuple[str, str] | None:
    """Return page and anchor of what a docstring names. None: another extension may know it.

    Args:
        target: what is named, with or without its module.
        module: the module of the docstring.
    """
    if target.startswith(_MESSAGES):
        return "reference/grpc", target.removeprefix(_MESSAGES).lower()
    if target == _MANIFEST:
        return "reference/bundle", "manifest-json"
    for package, (errors, anchor) in _ERRORS.items():
        is_full = target.startswith(f"{package}.errors.")
        if is_full or (module.startswith(package) and hasattr(errors, target)):
            return "reference/errors", anchor
    return None


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    place = place_of(node["reftarget"], node.get("py:module") or "") if node.get("refdomain") == "py" else None
    if place is None:
        return None
    return make_refnode(app.builder, node["refdoc"], *place, content)


def _draw_dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the two hyphens that Sphinx puts between a parameter and its meaning. Others are options."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("missing-reference", _resolve)
    app.connect("doctree-read", _draw_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
