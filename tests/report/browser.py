"""A page in a real browser, headless Chromium: what it reports of itself, at several widths, in light and dark colours."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOOK = Path(__file__).with_name("look.html").read_text()


class Look(NamedTuple):
    """What a browser has seen of a page at one width.

    Attributes:
        overflow: Pixels by which the page is wider than the window.
        ground: Luminance of the background, in [0, 1].
        title: The title.
        images: Widths in pixels of the images that were loaded; 0 for one that was not.
        unnamed: Number of images and charts without a text for those who do not see them.
        headless: Number of tables without a row of heads.
        faint: Texts whose contrast to what is behind them is below 4.5.
        texts: Number of texts whose contrast was measured.
        ids: Number of ids that are there twice.
        links: Addresses from which something would be loaded.
    """

    overflow: int
    ground: float
    title: str
    images: list[int]
    unnamed: int
    headless: int
    faint: list[str]
    texts: int
    ids: int
    links: list[str]


def find_browser() -> str:
    """Return the browser; skip the test where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path is not None), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


def look(file: Path, folder: Path, *, dark: bool = False, widths: tuple[int, ...] = (400, 1200)) -> list[Look]:
    """Load a page at several widths, and return what the browser has seen; assert that it has logged no error.

    Args:
        file: The page.
        folder: A folder for the page that loads it and for the browser.
        dark: Whether the reader prefers dark colours.
        widths: Widths of windows.
    """
    browser = find_browser()
    outer = folder / "look.html"
    outer.write_text(LOOK.replace("WIDTHS", json.dumps(widths)).replace("PAGE", json.dumps(file.resolve().as_uri())))
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
    ]
    flags += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--window-size=1400,1000"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", outer.as_uri()]
    done = subprocess.run([browser, *flags], capture_output=True, text=True, check=False, timeout=120)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    found = re.search(r'<script id="seen" type="application/json">(.*?)</script>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return [Look(**one) for one in json.loads(found[1])]
