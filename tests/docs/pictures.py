"""The pictures of the mini arena in docs/, of the records of results/mini.

    python -m tests.docs.pictures

writes docs/calibration.png, and docs/leaderboard.png, the page's first screen, for which it needs Chromium.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from lra.results.provenance import ROOT
from tests.docs.tables import RESULTS
from tests.helpers import browser

SCREEN = (1400, 1150)
"""Of the page, in pixels."""
WIDTH = 2000
"""Of the calibration, in pixels."""


def main() -> None:
    if not (browser.CHROMIUM and browser.DRIVER):
        sys.exit(browser.MISSING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for verb in ("calibrate", "leaderboard"):
            command = [sys.executable, "run.py", verb, f"--results={RESULTS}", f"--out={folder / verb}"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        with Image.open(folder / "calibrate" / "calibration.png") as scatter:
            size = (WIDTH, round(WIDTH * scatter.height / scatter.width))
            save(scatter.convert("RGB").resize(size, Image.Resampling.LANCZOS), "calibration.png")
        save(photograph(folder / "leaderboard" / "leaderboard.html", folder / "profile"), "leaderboard.png")


def photograph(page: Path, profile: Path) -> Image.Image:
    """The first screen of a page."""
    driver = browser.start(profile)
    try:
        browser.set_screen(driver, *SCREEN)
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        driver.get(page.as_uri())
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    finally:
        driver.quit()
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    """Writes it into docs/, with 256 colours, so that the file is small; no colour is off by much."""
    small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(ROOT / "docs" / name, optimize=True)


if __name__ == "__main__":
    main()
