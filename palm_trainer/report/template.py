"""HTML pages as single files: style and script are inline, and a policy blocks all else."""

import base64
import hashlib
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

_FOLDER = "page"


def render_page(template: str, **context: object) -> str:
    """Render a template of this package.

    The context also gets the style, the script, its hash and the time.
    """
    folder = files(__package__).joinpath(_FOLDER)
    script = folder.joinpath("table.js").read_text("utf-8")
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
