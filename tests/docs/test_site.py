"""The site that `make docs` builds: no warning, no dead link, nothing of other servers, and a search without a server.

The environment needs the extra `docs`, which `make docs` installs. Without it the tests skip.
"""

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_pages import ROOT

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
LIMIT_S = 900
"""A site of a hundred pages takes half a minute on a free core."""
_ELSEWHERE = re.compile(r"(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)
_IN_STYLES = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")
_LOADS = {"script": "src", "img": "src", "source": "srcset", "iframe": "src", "link": "href", "object": "data"}
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="Sphinx is not installed: make docs"),
]


class Page(HTMLParser):
    """What a page of the site links to, loads, and can be linked to at."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in _LOADS and _LOADS[tag] in values:
            self.loaded.append(values[_LOADS[tag]])


@pytest.fixture(scope="module")
def site() -> Path:
    """Build the site as `make docs` does: anew, since a page that has not changed may link to one that has."""
    folder = ROOT / "build" / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-n", "-b", "html", "docs", str(folder)]
    with (folder.parent / "docs.lock").open("w") as lock:  # each worker of the tests may come here
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def pages_of(site: Path) -> dict[Path, Page]:
    """Return the pages of the site. Those whose source is gone may still lie in the folder."""
    sources = (ROOT / "docs").rglob("*.md")
    files = [site / source.relative_to(ROOT / "docs").with_suffix(".html") for source in sources]
    return {file: Page(file) for file in [*files, site / "search.html", site / "genindex.html"]}


def test_pages_load_nothing_of_other_servers(site: Path) -> None:
    faults = []
    pages = pages_of(site)
    for file, page in pages.items():
        faults += [f"{file.name}: {address}" for address in page.loaded if _ELSEWHERE.match(address)]
    for file in [*site.rglob("*.css"), *pages]:
        faults += [f"{file.name}: {address}" for address in _IN_STYLES.findall(file.read_text(encoding="utf-8"))]
    assert not faults, faults


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    pages = pages_of(site)
    assert len(pages) > 35
    faults = []
    for file, page in pages.items():
        for link in [*page.links, *page.loaded]:
            path, _, anchor = unquote(link).partition("#")
            path = path.partition("?")[0]
            if _ELSEWHERE.match(link):
                continue
            target = Path(os.path.normpath(file.parent / path)) if path else file
            is_dead = not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors)
            if is_dead:
                faults.append(f"{file.relative_to(site)}: {link}")
    assert not faults, faults


def shown(address: str, tmp_path: Path) -> str:
    """Return a page as Chromium shows it, once its scripts have run."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path}", "--virtual-time-budget=120000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S).stdout


@needs_chromium
def test_search_works_on_files(site: Path, tmp_path: Path) -> None:
    page = shown(f"{(site / 'search.html').as_uri()}?q=canary", tmp_path)
    results = page.partition('id="search-results"')[2].partition("</article>")[0]
    assert 'href="how-to/serve/roll_out_models.html"' in results
    assert 'href="reference/server_options.html"' in results


MEASURE = """<pre id="wide"></pre><script>
const pages = PAGES, wide = [];
let index = 0;
const frame = document.createElement("iframe");
frame.style = "width: 360px; height: 800px";
frame.onload = () => {
  const width = frame.contentDocument.documentElement.scrollWidth;
  if (width > 360) wide.push(`${pages[index]} has ${width} px`);
  index += 1;
  if (index < pages.length) frame.src = pages[index];
  else document.getElementById("wide").textContent = `measured ${pages.length}: ${wide.join(", ")}`;
};
document.body.append(frame);
frame.src = pages[0];
</script>"""


@needs_chromium
def test_no_page_scrolls_sideways_on_a_telephone(site: Path, tmp_path: Path) -> None:
    addresses = [file.as_uri() for file in pages_of(site)]
    harness = tmp_path / "harness.html"
    harness.write_text(f"<body>{MEASURE.replace('PAGES', json.dumps(addresses))}</body>", encoding="utf-8")
    page = shown(harness.as_uri(), tmp_path)
    assert f'<pre id="wide">measured {len(addresses)}: </pre>' in page, re.search(r"<pre.*?</pre>", page, re.DOTALL)
