"""HTML pages as single files: style and script are inline, and a policy blocks all else."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

_FOLDER = "page"


def render_page(template: str, script_files: Sequence[str] = ("table.js",), **context: object) -> str:
    """Render a template of this package.

    Args:
        template: name of its file.
        script_files: files of the page's script, in order.
        context: what the template shows. It also gets the style, the script, its hash and the time.
    """
    folder = files(__package__).joinpath(_FOLDER)
    script = "".join(folder.joinpath(name).read_text("utf-8") for name in script_files)
    environment = Environment(
        loader=PackageLoader("palm_trainer.report", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        style=folder.joinpath("style.css").read_text("utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **context,
    )
