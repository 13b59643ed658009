"""Write docs/benchmarks and the table of README from benchmarks/results.

    python benchmarks/pages [--check]

Needs matplotlib for pictures whose figures have changed (`pip install -e '.[docs]'`). Pictures that nothing uses any more
are deleted. `--check` writes nothing, and ends with 1 if something is not as the results say.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT

from pages.book import PLOTS_FOLDER, README, Book, UnknownResultsError, build, fill_readme
from pages.parts import Results
from pages.plot_data import Plot, digest_line, file_names

_RESULTS = ROOT / "benchmarks/results"


def stale_pages(book: Book) -> dict[str, str]:
    """Return the new text of each page that is not as the book says, README among them."""
    readme = fill_readme((ROOT / README).read_text(encoding="utf-8"), book.readme)
    return {path: text for path, text in {**book.pages, README: readme}.items() if read(path) != text}


def stale_plots(book: Book) -> list[Plot]:
    """Return the plots whose pictures show other figures."""
    stale = []
    for plot in book.plots.values():
        pictures = [read(f"{PLOTS_FOLDER}/{name}") for name in file_names(plot).values()]
        if not all(digest_line(plot) in picture for picture in pictures):
            stale.append(plot)
    return stale


def unused_pictures(book: Book) -> list[str]:
    """Return the pictures that no page shows."""
    present = {path.name for path in (ROOT / PLOTS_FOLDER).glob("*.svg")}
    for plot in book.plots.values():
        present -= set(file_names(plot).values())
    return [f"{PLOTS_FOLDER}/{name}" for name in sorted(present)]


def read(path: str) -> str:
    """Return the text of a file, nothing if there is none."""
    return (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""


def write(path: str, text: str) -> None:
    """Write a file and say so."""
    (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
    (ROOT / path).write_text(text, encoding="utf-8")
    print(f"wrote {path}")


def main() -> None:
    """Write what is not as the results say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    try:
        book = build(Results.read(_RESULTS))
    except UnknownResultsError as error:
        sys.exit(str(error))
    pages, plots, unused = stale_pages(book), stale_plots(book), unused_pictures(book)
    if options.check:
        stale = [*pages, *(plot.name for plot in plots), *unused]
        sys.exit(f"not as the results say: {', '.join(stale)}. Run python benchmarks/pages." if stale else 0)
    for path, text in pages.items():
        write(path, text)
    for plot in plots:
        from pages.draw import draw

        for scheme, svg in draw(plot).items():
            write(f"{PLOTS_FOLDER}/{file_names(plot)[scheme]}", svg)
    for path in unused:
        (ROOT / path).unlink()
        print(f"deleted {path}")


if __name__ == "__main__":
    main()
