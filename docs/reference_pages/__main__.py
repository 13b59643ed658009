"""Write the generated parts of docs/reference: `python docs/reference_pages`."""

import os
import sys
from pathlib import Path

os.environ["COLUMNS"] = "120"
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from reference_pages.parts import PAGES, make_page, page_names  # noqa: E402

for page in page_names():
    path = PAGES / f"{page}.md"
    text = make_page(page)
    if text != path.read_text(encoding="utf-8"):
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
