"""What tests of pages in a real browser share."""

from collections.abc import Iterator
import contextlib
import shutil
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

needs_chromium = pytest.mark.skipif(
  CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)"
)


@contextlib.contextmanager
def watched(browser: Any, size: tuple[int, int], own: tuple[str, ...]) -> Iterator[Any]:
  """Opens an empty page; at the end it must have asked nobody else and complained of nothing.

  Args:
    browser: Of Playwright.
    size: Width and height of the window, in pixels.
    own: How addresses that it may ask begin.
  """
  view = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True)))
  view.set_default_timeout(60_000)  # busy machines compile slowly
  asked, complaints = [], []
  view.on("request", lambda request: asked.append(request.url))
  view.on("pageerror", lambda error: complaints.append(str(error)))
  view.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
  yield view
  view.close()
  assert not [url for url in asked if not url.startswith(own)]
  assert not complaints
