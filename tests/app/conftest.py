"""The browser of the tests of pages."""

import pytest

from .browsing import CHROMIUM


@pytest.fixture(scope="module")
def browser():
  from playwright import sync_api  # installed by `make test-app` only

  with sync_api.sync_playwright() as playwright:
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield chromium
    chromium.close()
