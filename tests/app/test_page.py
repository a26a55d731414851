"""Tests of the app in a real browser against a real server, without internet access."""

import contextlib
import io
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

pytest.importorskip("dash", reason="the page's framework is installed by `make test-app` only")
sync_api = pytest.importorskip(
  "playwright.sync_api", reason="playwright is installed by `make test-app` only"
)

import bcos_jax  # noqa: E402
from bcos_jax import BcosOps, StandardOps, render  # noqa: E402
from bcos_jax.app import networks  # noqa: E402

from ..common import ROOT, filled, photos, tiny  # noqa: E402
from .browsing import needs_chromium, watched  # noqa: E402

sync_api.expect.set_options(timeout=60_000)  # busy machines compile slowly
LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
NUMBER = r"[+−][\d.e−-]+"

pytestmark = [
  pytest.mark.app,
  needs_chromium,
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("networks")
  made = []
  for name, ops in (("bcos", BcosOps.v2()), ("plain", StandardOps())):
    model = tiny("resnet_tiny", ops, num_classes=len(LABELS))
    made.append(bcos_jax.save(root / name, model, filled(model), labels=LABELS))
  return made


@pytest.fixture(scope="module")
def address(folders, tmp_path_factory):
  """The page of two networks of pictures."""
  examples = tmp_path_factory.mktemp("examples")
  Image.fromarray(np.uint8(255 * photos(1, 40)[0])).save(examples / "a photograph.png")
  with served(tmp_path_factory, *folders, "--max_upload_mb=0.2", f"--examples={examples}") as at:
    yield at


@contextlib.contextmanager
def served(tmp_path_factory, *arguments):
  """Starts the command on a free port, and ends it."""
  command = [sys.executable, "-m", "bcos_jax", "app", *map(str, arguments)]
  environment = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
  }
  log = tmp_path_factory.mktemp("log") / "errors.txt"
  with log.open("w") as errors:
    server = subprocess.Popen(
      [*command, "--port=0"],
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env=environment,
      cwd=log.parent,
    )
  try:
    ready = next((line for line in server.stdout if line.startswith("Ready")), "")
    assert ready, log.read_text()
    yield re.search(r"http://\S+", ready).group()
    assert server.poll() is None, "the server ended by itself"
    assert "Traceback" not in log.read_text()
  finally:
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture
def page(browser, address):
  """A fresh page; at the end, it must have asked nobody else and complained of nothing."""
  with watched(browser, (1280, 900), (address, "data:", "blob:")) as view:
    view.goto(address)
    yield view


@pytest.fixture(scope="module")
def picture():
  pixels = Image.fromarray(np.uint8(255 * photos(1, 16)[0]))
  buffer = io.BytesIO()
  pixels.resize((48, 32)).save(buffer, format="PNG")
  return {"name": "mine.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def give(page, file):
  page.locator("#upload input[type=file]").set_input_files(file)


def explained(page, title):
  sync_api.expect(page.locator("article h2").first).to_have_text(re.compile(f"^{title}"))


@pytest.fixture(scope="module")
def expected(folders, picture):
  """The first network, and its explanations of every class of the picture."""
  network = networks.load_networks(folders[:1])[0]
  image = network.preprocess(Image.open(io.BytesIO(picture["buffer"])))
  return network, network.explain(image, list(range(len(LABELS))))


def choose(page, name):
  """Chooses a class, from the list of the most probable ones or from that of all."""
  button = page.locator("#classes button").filter(has_text=name)
  if not button.count():
    page.locator("#other").click()
    page.get_by_role("option", name=name, exact=True).click()
  else:
    button.click()
  explained(page, name)
  pressed = page.locator("#classes [aria-pressed=true]")
  sync_api.expect(pressed).to_have_count(1)
  sync_api.expect(pressed).to_contain_text(name)


def test_a_picture_is_explained_class_by_class(page, picture, expected):
  network, ex = expected
  ex = bcos_jax.explain(network.bundle.model, network.bundle.variables, ex.images[:1])
  top = [name for _, name, _ in render.view(ex, 0, LABELS, network.options).classes]
  give(page, picture)
  explained(page, top[0])
  assert page.locator("#classes button .name").all_inner_texts() == top
  for name in LABELS:
    choose(page, name)
  for image in page.locator("img").all():
    assert image.get_attribute("alt")
  assert "logit bias" in page.locator(".sum").inner_text()


def point_at(page, readout, down, across):
  """Moves the mouse about a place of the map, until it is noticed: the map may be redrawn."""
  untouched = readout.inner_text()
  for step in range(50):
    plot = page.locator(".map .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    x, y = box["x"] + box["width"] * across, box["y"] + box["height"] * down
    page.mouse.move(x + step % 2, y)
    page.wait_for_timeout(200)
    if readout.inner_text() != untouched:
      return


def test_a_pixel_is_read_by_mouse_and_by_keyboard(page, picture, expected):
  _, ex = expected
  give(page, picture)
  explained(page, "")
  choose(page, "cat")
  readout = page.locator(".readout").first
  point_at(page, readout, 9.5 / 16, 5.5 / 16)
  sync_api.expect(readout).to_have_text(re.compile(rf"Row 9, column 5: {NUMBER}"))
  assert "% of all contributions" in readout.inner_text()
  sync_api.expect(page.locator(".hoverlayer").first).to_contain_text("row 9, column 5")
  value = float(re.search(rf": ({NUMBER})", readout.inner_text()).group(1).replace("−", "-"))
  assert value == pytest.approx(float(ex.contributions[2, 9, 5]), abs=6e-4)

  page.get_by_text("Read a pixel by its number").click()
  page.get_by_role("spinbutton", name="row").fill("3")
  page.get_by_role("spinbutton", name="column").fill("15")
  sync_api.expect(readout).to_have_text(re.compile("Row 3, column 15: "))


def test_two_classes_are_compared(page, picture):
  give(page, picture)
  explained(page, "")
  choose(page, "ant")
  page.get_by_text("Compare classes").click()
  page.locator("#rival").click()
  page.get_by_role("option", name="elk", exact=True).click()
  sync_api.expect(page.locator("article h2").nth(2)).to_have_text("ant rather than elk")
  assert page.locator("article").count() == 3
  assert "for elk" in page.locator(".scale").nth(2).inner_text()
  sums = [
    float(text.split()[1].replace("−", "-")) for text in page.locator(".sum").all_inner_texts()[:2]
  ]
  between = page.locator(".sum").nth(2).inner_text()
  shown = float(re.search(r"outputs (\S+)", between).group(1).replace("−", "-"))
  assert shown == pytest.approx(sums[0] - sums[1], abs=2e-3)


def test_two_networks_are_compared(page, picture):
  give(page, picture)
  page.get_by_text("Compare networks").click()
  sync_api.expect(page.locator("article")).to_have_count(2)
  assert "post hoc" in page.locator("article").nth(1).inner_text()


@pytest.mark.parametrize("mode", ["Explain", "Compare classes", "Compare networks"])
def test_the_figure_is_downloaded(page, picture, mode, tmp_path):
  give(page, picture)
  sync_api.expect(page.locator("article")).to_have_count(1)
  page.locator(".modes").get_by_text(mode).click()
  count = {"Explain": 1, "Compare classes": 3, "Compare networks": 2}[mode]
  sync_api.expect(page.locator("article")).to_have_count(count)
  with page.expect_download() as download:
    page.get_by_role("button", name="Download figure").click()
  assert download.value.suggested_filename.startswith("explanation-")
  download.value.save_as(tmp_path / "figure.png")
  with Image.open(tmp_path / "figure.png") as figure:
    assert figure.format == "PNG" and min(figure.size) > 300


def test_bad_uploads_get_a_message_and_the_page_goes_on(page, picture):
  text = {"name": "text.png", "mimeType": "image/png", "buffer": b"no picture at all"}
  give(page, text)
  message = page.get_by_role("alert")
  sync_api.expect(message).to_contain_text("not a readable picture")
  large = {"name": "large.png", "mimeType": "image/png", "buffer": os.urandom(300_000)}
  give(page, large)
  sync_api.expect(message).to_contain_text("larger than 0.2 MB")
  buffer = io.BytesIO()
  Image.new("1", (9000, 8000)).save(buffer, format="PNG")
  give(page, {"name": "bomb.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
  sync_api.expect(message).to_contain_text("9000 × 8000")
  assert "Traceback" not in page.content()
  give(page, picture)
  sync_api.expect(page.locator("article")).to_have_count(1)
  sync_api.expect(message).to_have_text("")


def test_everything_is_reached_by_keyboard(page, picture):
  page.locator("#upload input[type=file]").wait_for(state="attached")
  page.locator(".drop").focus()
  with page.expect_file_chooser() as chooser:
    page.keyboard.press("Enter")
  chooser.value.set_files(picture)
  sync_api.expect(page.locator("article")).to_have_count(1)
  page.locator("#classes button").first.focus()
  before = page.locator("article h2").inner_text()
  page.keyboard.press("Tab")
  page.keyboard.press("Enter")
  sync_api.expect(page.locator("article h2")).not_to_have_text(before)


def test_an_example_is_explained(page):
  assert page.locator(".thumbs button").count() == 1  # its own, and no others
  page.get_by_role("button", name="a photograph").click()
  sync_api.expect(page.locator("article")).to_have_count(1)


@pytest.mark.parametrize("width", [420, 1280])
def test_nothing_sticks_out(page, picture, width):
  page.set_viewport_size({"width": width, "height": 900})
  give(page, picture)
  for mode in ("Compare classes", "Compare networks", "Explain"):
    page.get_by_text(mode, exact=True).click()
    page.wait_for_timeout(500)
    root = page.locator("html")
    assert root.evaluate("e => e.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1024, 768), (1280, 800)])
def test_the_first_map_is_in_view(page, picture, width, height):
  page.set_viewport_size({"width": width, "height": height})
  give(page, picture)
  explained(page, "")
  page.locator(".map").first.wait_for()
  box = page.locator(".map").first.bounding_box()
  assert page.evaluate("window.scrollY") == 0
  assert box["y"] + box["height"] <= height and box["x"] + box["width"] <= width
  assert box["width"] > 150
  panels = [panel.bounding_box() for panel in page.locator(".panels > figure").all()]
  assert len(panels) == 4 and len({round(panel["x"]) for panel in panels}) == 2  # no empty cell


def test_the_focus_is_seen(page, picture):
  give(page, picture)
  explained(page, "")
  seen = 0
  page.locator(".drop").focus()
  for _ in range(12):
    page.keyboard.press("Tab")
    style = page.evaluate(
      """() => { const e = document.activeElement, label = e.closest('label');
      return [e, label].filter(Boolean).map((x) => getComputedStyle(x))
        .map((s) => s.outlineStyle + ' ' + parseFloat(s.outlineWidth)); }"""
    )
    inside = page.evaluate("document.activeElement.closest('.js-plotly-plot, body') !== null")
    seen += any(line.startswith("solid") and float(line.split()[1]) >= 2 for line in style)
    assert inside
  assert seen >= 10, seen


def test_a_picture_says_what_kind_of_explanation_it_has(page, picture):
  give(page, picture)
  explained(page, "")
  assert page.locator(".kind").inner_text().startswith("exact")
  captions = page.locator("figcaption").all_inner_texts()
  assert any(text.startswith("Contributions on the picture") for text in captions)
  page.get_by_text("Compare networks").click()
  sync_api.expect(page.locator("article")).to_have_count(2)
  assert page.locator(".kind").nth(1).inner_text().startswith("post hoc")


def test_a_text_is_explained(browser, tmp_path_factory):
  bert = ROOT / "tests" / "fixtures" / "old" / "bundles" / "bert" / "bundle"
  examples = tmp_path_factory.mktemp("texts")
  (examples / "praise.txt").write_text("a good film")
  with (
    served(tmp_path_factory, bert, f"--examples={examples}") as address,
    watched(browser, (390, 844), (address, "data:", "blob:")) as view,
  ):
    view.goto(address)
    view.locator("#text").fill("a film that is zyxwv")
    view.get_by_role("button", name="Explain").click()
    sync_api.expect(view.locator("article .text span")).to_have_count(5)
    sync_api.expect(view.locator("article .unknown").last).to_have_text("zyxwv")
    title = view.locator("article h2").inner_text()
    view.locator("#classes [aria-pressed=false]").first.click()
    sync_api.expect(view.locator("article h2")).not_to_have_text(title)
    view.get_by_role("button", name="praise").click()
    sync_api.expect(view.locator("#text")).to_have_value("a good film")
    sync_api.expect(view.locator("article .text span")).to_have_count(3)
    view.locator("#text").fill(" ")
    view.get_by_role("button", name="Explain").click()
    sync_api.expect(view.get_by_role("alert")).to_contain_text("no text")
    assert view.locator("html").evaluate("e => e.scrollWidth") <= 390
