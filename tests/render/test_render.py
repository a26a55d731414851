"""Coloured explanations against golden numbers, and figures by their visible content."""

import base64
from html.parser import HTMLParser
import io
import itertools
import json
import pathlib
import re
import subprocess
import sys

import matplotlib
import numpy as np
from PIL import Image
import pytest

from bcos_jax import Explanation, render
from bcos_jax.errors import InputError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = [name for name in json.loads((GOLDEN / "layers.json").read_text()) if "colour" in name]
LABELS = tuple("zero one two three four five six seven eight nine".split())


def explanation(count=2, targets=None, colors=3, size=12, seed=0, paired=True):
  """An explanation whose parts add up, of random weights."""
  random = np.random.RandomState(seed)
  images = random.rand(count, size, size, colors).astype(np.float32)
  inputs = np.concatenate([images, 1 - images], -1) if paired else images - 0.5
  lead = (count,) if targets is None else (count, targets)
  weights = random.randn(*lead, *inputs.shape[1:]).astype(np.float32)
  seen = inputs if targets is None else inputs[:, None]
  contributions = (seen * weights).sum(-1)
  bias, position = np.full(lead, -2.25, np.float32), np.full(lead, 0.5, np.float32)
  value = contributions.sum((-1, -2)) + bias + position
  logits = random.randn(count, 10).astype(np.float32) - 5
  target = random.permutation(10)[: value.size].reshape(lead)
  for index in np.ndindex(lead):
    logits[index[0], target[index]] = value[index]
  residuals = {"logit_bias": bias, "position": position, "unexplained": np.zeros_like(bias)}
  return Explanation(
    images=images,
    logits=logits,
    value=value,
    target=target,
    inputs=inputs,
    weights=weights,
    contributions=contributions,
    residual=bias + position,
    residuals=residuals,
  )


def refused(call, *words):
  with pytest.raises(InputError) as caught:
    call()
  message = str(caught.value)
  assert all(word in message for word in words), message
  assert caught.value.fix


# ------------------------------------------------------------------ colours
@pytest.mark.parametrize("case", CASES)
def test_colours_equal_the_published_code(case):
  arrays = np.load(GOLDEN / "layers.npz")
  options = json.loads((GOLDEN / "layers.json").read_text())[case]
  inputs, weights = (arrays[f"{case}/{k}"].transpose(1, 2, 0) for k in ("image", "weights"))
  found = render.rgba_from(inputs, weights, options["smooth"], options["alpha_percentile"])
  np.testing.assert_allclose(found, arrays[f"{case}/rgba"], rtol=1e-5, atol=2e-6)


def test_colours_of_a_batch_are_those_of_each_image():
  ex = explanation(count=2, targets=3)
  both = render.rgba(ex, smooth=3)
  assert both.shape == (2, 3, 12, 12, 4)
  np.testing.assert_allclose(
    both[1, 2], render.rgba_from(ex.inputs[1], ex.weights[1, 2], smooth=3), rtol=1e-6
  )
  single = explanation(count=2)
  assert render.rgba(single).shape == (2, 12, 12, 4)


def test_a_weight_on_a_colour_shows_that_colour():
  weights = np.zeros((1, 5, 6), np.float32)
  weights[0, 0, 0] = 2  # red
  weights[0, 1, 3] = 1  # the absence of red
  weights[0, 2, [1, 4]] = [1, 3]  # green against its absence
  weights[0, 3, 2] = -4  # blue speaks against
  inputs = np.full((1, 5, 6), 0.5, np.float32)
  rgba = np.asarray(render.rgba_from(inputs, weights, smooth=0, percentile=100))[0]
  np.testing.assert_allclose(rgba[0], [1, 0, 0, 2 / 10**0.5], atol=1e-6)
  np.testing.assert_allclose(rgba[1], [0, 0, 0, 1 / 10**0.5], atol=1e-6)
  np.testing.assert_allclose(rgba[2], [0, 0.25, 0, 1], atol=1e-6)
  np.testing.assert_allclose(rgba[3:, 3], 0, atol=1e-6)  # transparent: opposes, or no weight


def test_grey_pictures_use_the_same_recipe_on_one_channel():
  ex = explanation(colors=1)
  grey = np.asarray(render.rgba(ex, smooth=3))
  assert grey.shape == (2, 12, 12, 4)
  tripled = [np.repeat(a, 3, axis=-1) for a in (ex.inputs, ex.weights)]
  np.testing.assert_allclose(grey, render.rgba_from(*tripled, smooth=3), rtol=1e-5, atol=1e-6)


def test_images_without_weights_give_finite_transparent_colours():
  rgba = np.asarray(render.rgba_from(np.zeros((8, 8, 6)), np.zeros((8, 8, 6)), smooth=3))
  np.testing.assert_array_equal(rgba, 0)


def test_smoothing_wider_than_the_picture_is_finite():
  assert np.isfinite(render.rgba(explanation(size=4), smooth=15)).all()


def test_contributions_are_blue_white_red_on_a_symmetric_range():
  rgb, cutoff = render.contribution_map(np.array([[-2.0, 1.0], [0.0, 4.0]]), percentile=100)
  assert cutoff == 4
  np.testing.assert_allclose(
    rgb, [[[0.5, 0.5, 1], [1, 0.75, 0.75]], [[1, 1, 1], [1, 0, 0]]], atol=1e-6
  )
  rgb, cutoff = render.contribution_map(np.array([[-2.0, 1.0], [0.0, 4.0]]), percentile=50)
  assert cutoff == 1.5  # between 1 and 2
  np.testing.assert_allclose(rgb[0, 0], [0, 0, 1])


def test_the_colour_map_is_the_published_one():
  values = np.linspace(-1, 1, 511).reshape(7, 73)
  rgb, _ = render.contribution_map(values, percentile=100)
  np.testing.assert_allclose(rgb, matplotlib.colormaps["bwr"]((values + 1) / 2)[..., :3], atol=0.01)


def test_maps_that_are_zero_or_nearly_everywhere_zero():
  rgb, cutoff = render.contribution_map(np.zeros((2, 4, 4)))
  np.testing.assert_array_equal(cutoff, [0, 0])
  np.testing.assert_array_equal(rgb, 1)
  sparse = np.zeros((40, 40))
  sparse[3, 5] = -7
  rgb, cutoff = render.contribution_map(sparse)
  assert cutoff == 7
  np.testing.assert_array_equal(rgb[3, 5], [0, 0, 1])


def test_overlay_keeps_the_picture_where_nothing_contributes():
  image = np.array([[[0.2, 0.4, 0.6], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
  over = np.asarray(render.overlay(image, np.array([[0.0, 3.0, -3.0]]), percentile=100))[0]
  assert over[0].std() == 0 and 0.2 < over[0, 0] < 0.9
  np.testing.assert_allclose(over[1:], [[1, 0, 0], [0, 0, 1]])


def test_bad_recipes_are_refused():
  ex = explanation()
  refused(lambda: render.rgba(ex, smooth=4), "smooth=4", "odd", "Use 5")
  refused(lambda: render.rgba(ex, smooth=-3), "smooth=-3")
  refused(lambda: render.rgba(ex, percentile=0), "percentile=0")
  refused(lambda: render.contribution_map(ex.contributions, percentile=101), "percentile=101")
  refused(lambda: render.rgba(explanation(paired=False)), "3 channels", "2 (grey) or 6")
  refused(lambda: render.rgba_from(np.zeros((5, 5, 6)), np.zeros((4, 5, 6))), "do not fit")
  refused(lambda: render.Options(probability="softmx"), "softmx", "softmax")
  refused(lambda: render.Options(top=0), "top=0")


# ------------------------------------------------------------------ figures
def texts(figure):
  """Every visible text of a figure and its box in pixels."""
  figure.canvas.draw()
  drawn = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text()]
  return [(t.get_text(), t.get_window_extent()) for t in drawn]


def overlaps(figure):
  """Pairs of texts that share more than a hair."""
  boxes = [(text, box.padded(-1)) for text, box in texts(figure)]
  return [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.overlaps(two)]


def outside(figure):
  whole = figure.bbox.padded(1)
  return [
    text
    for text, box in texts(figure)
    if not (whole.contains(*box.min) and whole.contains(*box.max))
  ]


def said(figure):
  return "\n".join(text for text, _ in texts(figure))


LONG = tuple(f"a class with a rather long name and $math$_{i}" for i in range(10))


@pytest.mark.parametrize("labels", [LONG, None])
def test_a_figure_is_readable(labels):
  figure = render.figure(explanation(), 1, labels)
  assert overlaps(figure) == [] and outside(figure) == []
  assert {"supports", "opposes", "picture", "contributions"} <= set(said(figure).split("\n"))


def test_a_figure_says_what_adds_up_to_the_output():
  ex = explanation()
  shown = render.view(ex, 1, LABELS)
  assert shown.name == LABELS[ex.target[1]]
  assert list(shown.terms) == ["pixels", "logit bias", "position", "rounding"]
  assert sum(shown.terms.values()) == pytest.approx(ex.value[1], abs=1e-9)
  line = next(text for text in said(render.figure(ex, 1)).split("\n") if "=" in text)
  numbers = [
    float(n.replace("−", "-").replace(" ", ""))
    for n in re.findall(r"[−+]? ?\d+\.?\d*(?:e[−+]\d+)?", line)
  ]
  assert numbers[0] == pytest.approx(ex.value[1], abs=1e-3)
  assert sum(numbers[1:]) == pytest.approx(numbers[0], abs=3e-3)


def test_what_nothing_accounts_for_is_not_called_rounding():
  ex = explanation()
  ex.value[0] += 300
  assert list(render.view(ex, 0).terms)[-1] == "unexplained"
  assert re.search(r"\+ 300\.000 \(unexplained\)", said(render.figure(ex, 0)))


def test_classes_are_the_most_probable_and_the_explained_one():
  ex = explanation()
  ex.logits[0] = np.arange(10) - 9.0
  ex.target[0] = 2
  shown = render.view(ex, 0, LABELS)
  assert [name for _, name, _ in shown.classes] == ["nine", "eight", "seven", "six", "two"]
  np.testing.assert_allclose(
    [p for *_, p in shown.classes], 1 / (1 + np.exp(-(np.array([9, 8, 7, 6, 2]) - 9.0))), rtol=1e-5
  )
  softmax = render.view(ex, 0, LABELS, render.Options(probability="softmax", top=10))
  assert sum(p for *_, p in softmax.classes) == pytest.approx(1, abs=1e-6)
  assert softmax.probability == pytest.approx(np.exp(-7) / np.exp(np.arange(10) - 9.0).sum())


def test_one_of_several_targets():
  ex = explanation(count=2, targets=3)
  shown = render.view(ex, (1, 2), LABELS)
  np.testing.assert_array_equal(shown.contributions, ex.contributions[1, 2])
  assert shown.target == ex.target[1, 2] and shown.value == ex.value[1, 2]
  assert render.view(ex, 1).target == ex.target[1, 0]


def test_the_coloured_picture_lies_on_the_asked_background():
  ex = explanation()
  ex.weights[:] = 0
  for grey in (1.0, 0.5):
    colored = render.view(ex, 0, options=render.Options(background=grey)).colored
    np.testing.assert_allclose(colored, grey, atol=1e-6)


def test_networks_without_complement_channels_have_two_panels():
  figure = render.figure(explanation(paired=False), 0, LABELS)
  assert "sees in it" not in said(figure) and "contributions" in said(figure)
  assert overlaps(figure) == []


def test_many_constants_take_another_line():
  ex = explanation()
  ex.residuals.update({f"constant_number_{i}": np.zeros(2) for i in range(9)})
  figure = render.figure(ex, 0, LABELS)
  assert overlaps(figure) == [] and outside(figure) == []


def test_tiny_grey_pictures():
  figure = render.figure(explanation(colors=1, size=1), 0, LABELS)
  assert overlaps(figure) == []


def test_rows_beside_other_methods():
  ex = explanation(count=4)
  other = np.random.RandomState(1).randn(4, 6, 6)
  figure = render.figures(
    ex,
    [3, 0],
    LABELS,
    title="Ten digits",
    baselines={
      "input × gradient of the conventional network": other,
      "zero": np.zeros((4, 12, 12)),
    },
  )
  assert overlaps(figure) == [] and outside(figure) == []
  assert {
    LABELS[ex.target[3]],
    LABELS[ex.target[0]],
    "Ten digits",
    "supports the class",
    "no contributions",
  } <= set(said(figure).split("\n"))
  images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
  np.testing.assert_allclose(images[3], other[3], rtol=1e-6)
  np.testing.assert_allclose(images[7], ex.contributions[0][..., None].squeeze(), rtol=1e-6)


def test_figures_ignore_and_keep_the_readers_settings(tmp_path):
  with matplotlib.style.context("dark_background"):
    before = dict(matplotlib.rcParams)
    render.figure(explanation(), 0, LABELS, tmp_path / "one.png")
    assert dict(matplotlib.rcParams) == before
  with Image.open(tmp_path / "one.png") as picture:
    corner = np.asarray(picture.convert("RGB"))[:4, :4]
    assert picture.size[0] > 1500
  np.testing.assert_array_equal(corner, 255)


def test_drawing_needs_neither_pyplot_nor_a_screen_and_importing_no_matplotlib():
  code = (
    "import sys; from bcos_jax import render; assert 'matplotlib' not in sys.modules; "
    "import matplotlib.figure; from tests.render.test_render import explanation; "
    "render.figure(explanation(), 0); "
    "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
    check=False,
  )
  assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_files_of_each_kind(tmp_path, suffix):
  path = tmp_path / "new" / f"figure{suffix}"
  render.figures(explanation(), [0], LABELS, path)
  start = path.read_bytes()[:300]
  assert {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<svg"}[suffix] in start
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_bad_figures_are_refused(tmp_path):
  ex = explanation()
  blocked = tmp_path / "file"
  blocked.write_text("")
  refused(lambda: render.figure(ex, 0, LABELS, blocked / "figure.png"), "Cannot write", "file")
  refused(lambda: render.figure(ex, 0, LABELS, tmp_path), "is a folder")
  refused(lambda: render.figure(ex, 0, LABELS, tmp_path / "figure.jpgg"), ".jpgg", ".png")
  refused(lambda: render.figure(ex, 2, LABELS), "index=2", "[2]")
  refused(lambda: render.figure(ex, -1, LABELS), "index=-1")
  refused(lambda: render.figure(ex, (0, 1), LABELS), "(0, 1)")
  refused(lambda: render.figure(ex, 0, LABELS[:3]), "3 labels", "10 classes")
  refused(lambda: render.figures(ex, [], LABELS), "empty")
  refused(lambda: render.figures(ex, [0], baselines={"x": np.zeros((3, 4, 4))}), "(3, 4, 4)", "[2")
  ex.contributions[0, 3, 3] = np.nan
  refused(lambda: render.figure(ex, 0, LABELS), "NaN")


# ------------------------------------------------------------------- report
class Reader(HTMLParser):
  """Checks that tags close in order, and keeps what a browser would fetch or show."""

  VOID = ("meta", "img", "br", "hr")

  def __init__(self):
    super().__init__()
    self.open, self.links, self.images, self.text = [], [], [], []

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.links += [attrs[k] for k in ("src", "href", "srcset", "action") if k in attrs]
    if tag == "img":
      self.images.append(attrs)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def read(path):
  reader = Reader()
  reader.feed(path.read_text(encoding="utf-8"))
  assert reader.open == []
  return reader, " ".join(reader.text)


def test_a_report_stands_alone(tmp_path):
  path = tmp_path / "report.html"
  ex = explanation()
  render.report(
    path,
    "Digits",
    [render.Entry(ex, 0, LABELS), render.Entry(ex, 1, LABELS)],
    intro="First.\n\nSecond.",
    summary=[["network", "accuracy"], ["B-cos", 0.98]],
    plots={"Two bars": render.bars({"a": 1.0, "b": 2.0})},
  )
  reader, text = read(path)
  assert len(reader.images) == 8 + 1 and all(image["alt"] for image in reader.images)
  assert all(link.startswith("data:image/png;base64,") for link in reader.links)
  source = path.read_text(encoding="utf-8")
  assert not re.search(r"https?:|//cdn|@import|url\(|<script", source)
  for words in (
    "First.",
    "Second.",
    "How to read",
    "supports",
    "opposes",
    "0.98",
    "Two bars",
    LABELS[ex.target[0]],
    LABELS[ex.target[1]],
    "logit bias",
  ):
    assert words in text, words
  assert "prefers-color-scheme:dark" in source and "@media print" in source


def test_the_pictures_of_a_report_are_those_of_the_explanation(tmp_path):
  path = tmp_path / "report.html"
  ex = explanation()
  render.report(path, "Digits", [render.Entry(ex, 1)], options=render.Options(smooth=3))
  images = [
    np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))) / 255
    for image in read(path)[0].images
  ]
  picture, colored, heat, over = images
  rgba = render.rgba_from(ex.inputs[1], ex.weights[1], smooth=3)
  np.testing.assert_allclose(picture, ex.images[1], atol=3e-3)
  np.testing.assert_allclose(colored, rgba[..., 3:] * rgba[..., :3] + 1 - rgba[..., 3:], atol=3e-3)
  np.testing.assert_allclose(heat, render.contribution_map(ex.contributions[1])[0], atol=3e-3)
  np.testing.assert_allclose(over, render.overlay(ex.images[1], ex.contributions[1]), atol=3e-3)


def test_names_cannot_become_markup(tmp_path):
  path = tmp_path / "report.html"
  nasty = [f'<script>alert({i})</script>"&' for i in range(10)]
  render.report(
    path,
    nasty[0],
    [render.Entry(explanation(), 0, nasty, nasty[1], nasty[2])],
    intro=nasty[3],
    summary=[[nasty[4]], [nasty[5]]],
  )
  assert "<script" not in path.read_text(encoding="utf-8")
  reader, text = read(path)
  assert all(nasty[i] in text for i in range(6))
  assert nasty[explanation().target[0]] in reader.images[0]["alt"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
  path = tmp_path / "report.html"
  path.write_text("old")
  refused(lambda: render.report(path, "x", [render.Entry(explanation(), 7)]), "index=7")
  refused(lambda: render.report(path, "x", [], summary=[["a", "b"], ["c"]]), "[1, 2]", "2")
  refused(lambda: render.report(path / "sub.html", "x", []), "Cannot write")
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]
