"""A headless Chromium on Dagster's UI, and where its screenshots go.

The ordinary suite loads this file and collects nothing here, so that it imports nothing that only ``browser`` needs.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from metronome_pipeline_tests.browser.desk import Desk
    from metronome_pipeline_tests.browser.screenshots import Shoot

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 60_000


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser of this machine: Playwright's own download is not relied on."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.fail("No Chromium was found: install one (on Debian: apt install chromium), or name it in CHROMIUM.")
    return found


@pytest.fixture(scope="session")
def desk(chromium: str) -> Iterator["Desk"]:
    from metronome_pipeline_tests.browser.desk import open_desk  # noqa: PLC0415

    del chromium
    with open_desk() as opened:
        yield opened


@pytest.fixture(scope="session")
def browser(chromium: str, desk: "Desk") -> Iterator["Browser"]:
    """One browser for all tests, after the services: Playwright keeps an event loop running, and they run their own."""
    del desk
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415

    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as playwright:
        # Without a sandbox of its own, as root in a container has to.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", desk: "Desk") -> Iterator["Page"]:
    """A fresh window, as wide as README's pictures. Times are UTC's."""
    context = browser.new_context(
        base_url=desk.url,
        viewport={"width": 1440, "height": 900},
        timezone_id="UTC",
        locale="en-US",
        color_scheme="light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(_PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: into docs only where UPDATE_PICTURES asks for it, so that a test run changes no file."""
    if os.environ.get("UPDATE_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        return PICTURES
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture
def shoot(page: "Page", pictures: Path) -> "Shoot":
    from metronome_pipeline_tests.browser.screenshots import Shoot  # noqa: PLC0415

    return Shoot(page, pictures)
