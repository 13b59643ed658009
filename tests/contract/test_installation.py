"""Messages on parts that are not installed say what README says: PALM is on no package index."""

import re
import tomllib
from pathlib import Path

from palm_serve.system.installation import how_to_install

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("palm_serve/**/*.py"), *ROOT.glob("palm_trainer/**/*.py"), *ROOT.glob("examples/**/*.py")])
_NAMED = re.compile(r"""how_to_install\(['"]([a-z0-9-]+)['"]\)""")


def test_messages_name_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named: set[str] = set()
    for path in SOURCES:
        named.update(_NAMED.findall(path.read_text(encoding="utf-8")))
    assert len(named) > 8
    assert named <= set(project["optional-dependencies"])


def test_messages_name_no_package_that_no_index_has() -> None:
    """Who runs such a command installs what a stranger may upload under the name."""
    for path in SOURCES:
        assert "palm-nlu[" not in path.read_text(encoding="utf-8"), path


def test_messages_install_as_readme_does() -> None:
    for page in ("README.md", "docs/how-to/install.md"):
        readme = (ROOT / page).read_text(encoding="utf-8")
        assert how_to_install("train,serve,http").partition(": ")[2] in readme
