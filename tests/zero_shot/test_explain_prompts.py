"""`bcos-jax explain --text`, and the figure with a column for each text."""

import dataclasses

import jax
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import StandardOps, cli, render
from bcos_jax.errors import InputError

from .. import tokenizers
from ..common import filled, photos

SIDE = 32


@pytest.fixture(autouse=True)
def _no_lasting_cache(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """An image tower, a text tower, a narrow one, a tokenizer and a picture."""
  folder = tmp_path_factory.mktemp("towers")
  image = bcos_jax.create("clip_resnet_test", ops=StandardOps(), features=16)
  bcos_jax.save(folder / "image", *bcos_jax.bcosify(image, filled(image)))
  vit = bcos_jax.create("clip_test", ops=StandardOps(), num_classes=0)
  bcos_jax.save(folder / "vit", vit, filled(vit))
  for name, fields in (("text", {}), ("narrow", {"projection": 8})):
    model = bcos_jax.create("siglip_text_test", ops=StandardOps(), **fields)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8), np.int32))
    bcos_jax.save(folder / name, model, variables)
  tokenizers.words(folder / "tokenizer")
  pixels = (255 * photos(1, side=48)[0]).astype(np.uint8)
  Image.fromarray(pixels).save(folder / "a photo.png")
  return folder


def run(folder, *more, image="image", text="a dog, the red car", tower="text"):
  given = [folder / image, folder / "a photo.png", "--output", folder / "out"]
  given += ["--text", text] if text is not None else []
  given += ["--text_tower", folder / tower] if tower else []
  given += ["--tokenizer", folder / "tokenizer", *more]
  return cli.main(["explain", *map(str, given)])


@pytest.mark.parametrize("image, more", [("image", ["--unpooled", "--power=2"]), ("vit", [])])
def test_a_figure_for_each_picture_and_a_report(image, more, folder, capsys):
  assert run(folder, *more, image=image) == 0
  printed = capsys.readouterr().out
  assert sorted(path.name for path in (folder / "out").iterdir()) == ["a photo.png", "report.html"]
  assert printed.count("%") == 2 and "the red car" in printed
  page = (folder / "out" / "report.html").read_text(encoding="utf-8")
  assert "a dog" in page and page.count("data:image/png") == 1
  # Only networks with complement channels have colours of their own.
  assert ("What the network sees" in page) == (image == "image")
  assert "averaged over the positions" in page or not more


@pytest.mark.parametrize(
  "options, more, words",
  [
    ({"text": "a dog,,sky"}, [], "Text 1 ('') is empty"),
    ({"text": "a " * 20}, [], "has 21 tokens, expected at most 8"),
    ({"text": None}, [], "--text_tower is given without --text"),
    ({"tower": None}, [], "--text is given without --text_tower"),
    ({"tower": "narrow"}, [], "features of width 16, the text tower of 8"),
    ({"tower": "vit"}, [], "reads no text"),
    ({"image": "text"}, [], "reads no images"),
    ({"image": "vit"}, ["--unpooled"], "cannot be applied without pooling"),
    ({}, ["--power=0"], "power is 0"),
    ({}, ["--target=1"], "--target and --text are both given"),
  ],
)
def test_bad_usage_has_a_cause_and_a_fix(options, more, words, folder, capsys):
  assert run(folder, *more, **options) == 2
  lines = [line for line in capsys.readouterr().err.strip().splitlines() if line]
  cause, fix = lines[-2:]
  assert words in cause and fix.startswith("  fix: ")


def test_towers_have_no_classes_to_explain(folder, capsys):
  arguments = [folder / "vit", folder / "a photo.png", "--output", folder / "none"]
  assert cli.main(["explain", *map(str, arguments)]) == 2
  assert "no classes to explain" in capsys.readouterr().err


@pytest.fixture(scope="module")
def explained():
  image = bcos_jax.create("clip_resnet_test", ops=StandardOps(), features=16)
  model, variables = bcos_jax.bcosify(image, filled(image))
  texts = np.random.RandomState(0).standard_normal((3, 16))
  return bcos_jax.explain_text(model, variables, photos(2, side=SIDE), texts)


def test_columns_share_one_scale(explained, tmp_path):
  figure = render.prompts(
    explained, 1, ["one", "two", "three"], tmp_path / "p.png", probabilities=[0.1, 0.2, 0.7]
  )
  assert (tmp_path / "p.png").stat().st_size > 1000
  titles = [ax.get_title() for ax in figure.axes]
  assert any("three" in title and "70.0 %" in title for title in titles)
  maps = [ax.images[0] for ax in figure.axes if ax.images and ax.images[0].get_array().ndim == 2]
  cutoff = float(max(render.cutoff_of(explained.contributions[1])))
  assert [image.get_clim() for image in maps[:3]] == [pytest.approx((-cutoff, cutoff))] * 3
  # More texts than columns continue on the next line: the picture is drawn once.
  wrapped = render.prompts(explained, 0, ["one", "two", "three"], columns=3)
  assert [ax.get_title() for ax in wrapped.axes].count("picture") == 1


@pytest.mark.parametrize(
  "change, index, texts, fields, message",
  [
    ({}, 2, ["a"] * 3, {}, "index is 2"),
    ({}, 0, ["a"] * 2, {}, "2 texts.*3 texts"),
    ({}, 0, ["a"] * 3, {"probabilities": [1.0]}, "1 probabilities"),
    ({}, 0, ["a"] * 3, {"columns": 1}, "columns is 1"),
    ({"contributions": np.full((2, 3, 4, 4), np.nan)}, 0, ["a"] * 3, {}, "contains NaN"),
    ({"contributions": np.ones((2, 4, 4))}, 0, ["a"] * 3, {}, r"expected \[N, P, H, W\]"),
  ],
)
def test_figures_name_what_is_wrong(explained, change, index, texts, fields, message):
  with pytest.raises(InputError, match=message):
    render.prompts(dataclasses.replace(explained, **change), index, texts, **fields)
