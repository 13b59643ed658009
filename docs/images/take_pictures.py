#!/usr/bin/env python3
"""Take the pictures of the README after `make demo`: the playground of a server, and the report of a run.

    make demo-serve                                  # prints the address of the page
    docs/images/take_pictures.py playground URL
    docs/images/take_pictures.py report runs/demo/report.html

Needs `pip install playwright` and a Chromium (Debian: `apt-get install chromium`), whose path may follow.
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
TEXT = "remind me to call the dentist at half past nine tomorrow"
LIMIT_MS = 300_000


def take_playground(page: Page, url: str) -> None:
    """Take the picture of an answer.

    Args:
        page: page of the browser.
        url: address that the server prints.
    """
    page.set_viewport_size({"width": 1120, "height": 800})
    page.goto(url)
    page.locator("#state[data-state=ready]").wait_for()
    page.locator("#text").fill(TEXT)
    page.locator(".answer").wait_for()
    page.screenshot(path=FOLDER / "playground.png")


def take_report(page: Page, report: str) -> None:
    """Take the picture of the slots in a report, from their calibration on.

    Args:
        page: page of the browser.
        report: path of `report.html` in a run directory.
    """
    page.set_viewport_size({"width": 1120, "height": 900})
    page.goto(Path(report).resolve().as_uri())
    heading = page.locator("#task-slots h3", has_text="Accuracy of whole spans").bounding_box()
    if heading is None:
        raise SystemExit(f"{report} must be the report of `make demo`: it shows no slots.")
    clip = {"x": 0, "y": heading["y"] - 24, "width": 1120, "height": 860}
    page.screenshot(path=FOLDER / "report.png", full_page=True, clip=clip)


TAKE = {"playground": take_playground, "report": take_report}


def main(picture: str, source: str, chromium: str = "/usr/bin/chromium") -> None:
    """Take a picture.

    Args:
        picture: `playground` or `report`.
        source: address of the page, or path of the report.
        chromium: path of the browser.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(reduced_motion="reduce")
        page.set_default_timeout(LIMIT_MS)
        TAKE[picture](page, source)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
