#!/usr/bin/env python3
"""Take docs/images/playground.png from a server of the demo: `make demo-serve`, then `playground.py URL [CHROMIUM]`.

Needs `pip install playwright` and a Chromium (Debian: `apt-get install chromium`).
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

TEXT = "remind me to call the dentist at half past nine tomorrow"
WIDTH, HEIGHT = 1120, 800
LIMIT_MS = 300_000


def main(url: str, chromium: str = "/usr/bin/chromium") -> None:
    """Take the picture.

    Args:
        url: address that the server prints.
        chromium: path of the browser.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
        page.set_default_timeout(LIMIT_MS)
        page.goto(url)
        page.locator("#state[data-state=ready]").wait_for()
        page.locator("#text").fill(TEXT)
        page.locator(".answer").wait_for()
        page.screenshot(path=Path(__file__).with_suffix(".png"))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
