"""The exported page in a real browser: from the disk, offline, with the maps of Python."""

import io

import numpy as np
from PIL import Image
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is installed by `make test-app` only")

import bcos_jax
from bcos_jax import BcosOps, StandardOps, export
from bcos_jax.export import web_page

from ..common import ROOT, filled, photos, tiny
from .browsing import needs_chromium, watched

RUNTIME = ROOT / "build" / f"{web_page.RUNTIME}-{web_page.VERSION}.tgz"
LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
NETWORKS = {
  "resnet_tiny": BcosOps.v2(),
  "vit_test": BcosOps(),
  "densenet_tiny": StandardOps(),
}

pytestmark = [
  pytest.mark.app,
  needs_chromium,
  pytest.mark.skipif(
    not RUNTIME.exists(), reason=f"{RUNTIME.name} is fetched by `make test-app` only"
  ),
]


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
  """A network with one example, and the folder of its page."""
  root = tmp_path_factory.mktemp("web")
  Image.fromarray(np.uint8(255 * photos(1, 24)[0])).save(root / "example.png")
  model = tiny(request.param, NETWORKS[request.param], num_classes=len(LABELS))
  bcos_jax.save(root / "net", model, filled(model), labels=LABELS, examples=[root / "example.png"])
  net = bcos_jax.load(root / "net")
  return net, export.save(net, root / "page", to="web", runtime=RUNTIME)


@pytest.fixture
def page(browser, exported):
  """The page, with its example explained; it must ask nobody and complain of nothing."""
  with watched(browser, (1100, 800), ("file:", "blob:", "data:")) as view:
    view.goto((exported[1] / "index.html").as_uri())
    ready(view)
    yield view


def ready(view):
  view.wait_for_function("!element('shown').hidden && !element('state').textContent")


RUN = """async (target) => {
  const found = await session.run({
    images: new ort.Tensor("float32", current.array, [1, HEIGHT, WIDTH, COLORS]),
    target: new ort.Tensor("int32", Int32Array.of(target), [1]),
  });
  return {read: Array.from(current.array), map: Array.from(found.contributions.data)};
}"""


def test_the_map_is_that_of_python(page, exported):
  net, _ = exported
  picture = Image.fromarray(np.uint8(255 * photos(1, 64, seed=3)[0])).resize((90, 61))
  buffer = io.BytesIO()
  picture.save(buffer, format="PNG")
  page.set_input_files(
    "#file", {"name": "mine.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
  )
  page.wait_for_function("element('reading').textContent.includes('90 x 61 pixels')")
  ready(page)
  found = page.evaluate(RUN, 3)
  expected = net.preprocess(picture)
  read = np.float32(found["read"]).reshape(expected.shape)
  assert np.abs(read - expected).max() <= 1.01 / 255  # 8-bit rounding between the axes
  assert np.abs(read - expected).mean() <= 0.02 / 255
  ex = bcos_jax.explain(net.model, net.variables, read[None], 3)
  gap = np.abs(np.reshape(found["map"], ex.contributions.shape) - ex.contributions)
  assert gap.max() <= 1e-5 * np.abs(ex.contributions).max()


def test_classes_are_explained_one_by_one(page, exported):
  best = page.locator("#classes [aria-pressed=true]").inner_text().split("\n")[0]
  assert page.inner_text("#heading") == f"Why {best}?"
  assert page.locator("#classes button").count() == 5
  page.locator("#classes button").nth(2).click()
  page.wait_for_function(f"element('heading').textContent !== 'Why {best}?'")
  name = page.locator("#classes button").nth(2).inner_text().split("\n")[0]
  assert page.inner_text("#heading") == f"Why {name}?"
  page.fill("#other", best.upper())
  page.keyboard.press("Tab")
  page.wait_for_function(f"element('heading').textContent === 'Why {best}?'")
  coloured = exported[0].model.ops.encoding.pairing != "none"
  assert page.is_visible("#explanation") == coloured
  said = "Exact" if coloured else "Post hoc"
  assert page.inner_text("#kind").startswith(said)


def test_small_screens_and_files_that_are_no_pictures(page):
  page.set_viewport_size({"width": 390, "height": 800})
  assert page.evaluate("document.documentElement.scrollWidth") <= 390
  page.set_input_files(
    "#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
  )
  page.wait_for_function("!element('message').hidden")
  assert "notes.txt is no picture" in page.inner_text("#message")
