"""Take the README's screenshot: the view of 2024-10-18 in the sample market, with VTAK chosen.

Usage: python tests/tools/make_screenshot.py

Reads   the sample market. Minute bars are made up too: see tests/fakes/polygon.py.
Writes  tests/screenshot.png.
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fakes.polygon import FakePolygon
from helpers.gui import running_gui
from helpers.markets import SAMPLE_DAY, SAMPLE_MARKET
from helpers.scripts import TOP, build_table

TICKER = "VTAK"
SIZE = {"width": 1280, "height": 900}
MOST_BYTES = 300_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
# Tabs of one context share a process, and what it has compiled.
FLAGS += ["--renderer-process-limit=1"]


def find_chromium():
    """The path of Chromium, or None. Its shell without windows needs half of the processor time."""
    return shutil.which("chromium-headless-shell") or shutil.which("chromium")


def launch_chromium(playwright):
    return playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)


def take_screenshot(browser, url, output):
    """Write the view at url as a PNG to output, once both charts are drawn."""
    page = browser.new_page(viewport=SIZE)
    page.goto(f"{url}/?date={SAMPLE_DAY}&ticker={TICKER}")
    for chart in ("#day-chart", "#history-chart"):
        page.locator(f'{chart}[data-ticker="{TICKER}"]').wait_for()
    page.locator("#detail .loading").first.wait_for(state="detached")
    page.screenshot(path=output, animations="disabled")
    page.close()


def main():
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, FakePolygon(SAMPLE_MARKET) as polygon:
        table = build_table(SAMPLE_MARKET, Path(folder) / "lookup_table.pkl")
        gui = running_gui(table, polygon.url, POLYGON_API_KEY="any")
        with gui as served, sync_playwright() as playwright:
            browser = launch_chromium(playwright)
            take_screenshot(browser, served.url, TOP / "tests" / "screenshot.png")
            browser.close()


if __name__ == "__main__":
    main()
