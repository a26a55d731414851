"""What kind of explanation a picture shows, and how little it shows where nothing matters."""

import dataclasses

import jax
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, render
from bcos_jax.cli.explain_images import explain_pictures
from bcos_jax.render import kinds
from bcos_jax.train.evaluation import showcase

from ..common import filled, photos, tiny
from .test_render import LABELS, explanation, read, said

TRAINED, COPIED, CLOSED = kinds.Origin
NOT_TUNED = "not fine-tuned; contributions are negligible"


def faint(share=1e-9):
  """Explanations whose contributions are a share of what they are in `explanation`."""
  ex = explanation()
  small = ex.contributions * np.float32(share)
  value = ex.residual + small.sum((-1, -2))
  return dataclasses.replace(
    ex, weights=ex.weights * np.float32(share), contributions=small, value=value
  )


def account(total, constant, **fields):
  parts = {"value": total + constant, "mass": abs(total), "unexplained": 0.0, **fields}
  return kinds.Account(total=total, constants={"bias": constant}, **parts)


@pytest.mark.parametrize(
  ("accounts", "origin", "words"),
  [
    ([account(3.0, 1.0)], TRAINED, kinds.EXACT),
    ([account(3.0, 1.0)], COPIED, "not fine-tuned; exact"),
    ([account(1e-9, -2.0)], COPIED, NOT_TUNED),
    ([account(3.0, 1.0)], CLOSED, f"{kinds.EXACT}; B-cosified in closed form, not trained"),
    ([account(1e-9, -2.0)], CLOSED, "closed form, not trained; contributions are negligible; the"),
    ([account(3.0, 1.0, unexplained=1.0)], CLOSED, "not trained; incomplete: up to 25.0% is"),
    ([account(1e-9, -2.0)], TRAINED, "contributions are negligible; the output is its constants"),
    ([account(1e-9, 1.0), account(3.0, 1.0)], COPIED, "of 1 of 2 explanations contributions are"),
    ([account(3.0, 1.0, conventional=True)], TRAINED, "network, 25 % of the output is biases"),
    (
      [account(3.0, -1.0, conventional=True)],
      TRAINED,
      "25 % of what adds up to the output is biases",
    ),
    (
      [account(3.0, 1.0, conventional=True), account(1.0, 1.0, conventional=True)],
      TRAINED,
      "post hoc: not exact for this network, 25 to 50 % of the output is biases",
    ),
    ([account(3.0, 1.0, unexplained=1.0)], TRAINED, "incomplete: up to 25.0% is unexplained"),
  ],
)
def test_kinds(accounts, origin, words):
  found = kinds.kind(accounts, origin)
  assert words in found and (found == kinds.EXACT) == (words == kinds.EXACT)


def test_figures_and_reports_say_what_they_show(tmp_path):
  tuned, untuned, closed = (render.Options(origin=origin) for origin in (TRAINED, COPIED, CLOSED))
  for ex, options, words in (
    (explanation(), tuned, kinds.EXACT),
    (explanation(), untuned, "not fine-tuned; exact"),
    (explanation(), closed, f"{kinds.EXACT}; B-cosified in closed form, not trained"),
    (faint(), untuned, NOT_TUNED),
    (dataclasses.replace(explanation(), conventional=True), tuned, "post hoc: not exact"),
  ):
    for figure in (
      render.figure(ex, 0, LABELS, options=options),
      render.figures(ex, [0, 1], LABELS, options=options),
    ):
      assert words in " ".join(said(figure).split())
    render.report(tmp_path / "r.html", "x", [render.Entry(ex, 0)], options=options)
    assert words in read(tmp_path / "r.html")[1]


def test_what_does_not_matter_is_pale():
  for share in (1e-9, 1e-6):
    shown = render.view(faint(share), 0, LABELS)
    assert shown.heat.min() > 0.98 and shown.cutoff > 50 * np.abs(shown.contributions).max()
    assert np.ptp(shown.colored) < 0.02
    pale = np.asarray(shown.overlay)
    np.testing.assert_allclose(pale, np.broadcast_to(pale[..., :1], pale.shape), atol=0.03)
  whole = render.view(explanation(), 0, LABELS)
  np.testing.assert_array_equal(
    whole.heat, render.contribution_map(explanation().contributions[0])[0]
  )
  assert whole.cutoff == float(render.cutoff_of(explanation().contributions[0]))


def test_the_scale_of_maps_has_no_step():
  near = [render.view(faint(share), 0).cutoff for share in np.geomspace(1e-6, 1, 60)]
  steps = np.diff(np.log(near))
  assert (steps > -1e-3).all() or np.abs(steps).max() < 0.3


def test_sums_of_next_to_nothing_are_rounded():
  line = " ".join(said(render.figure(faint(1e-12), 0)).split())
  assert "≈ 0 (sum of all pixel contributions) − 2.250 (logit bias)" in line
  assert "e−" not in line and "rounding" not in line


# The ground of what the network sees.


def strokes(stroke, ground):
  picture = np.full((24, 24, 3), ground, np.float32)
  picture[4:20, 10:13] = stroke
  return picture


@pytest.mark.parametrize(
  ("stroke", "ground", "level"),
  [
    (1.0, 0.0, 0.5),
    (1.0, 0.4, 0.5),
    (0.6, 0.1, 0.5),
    ((1, 1, 0), (0, 0, 1), 0.5),
    (0.0, 1.0, 1.0),
    (0.2, 0.8, 1.0),
    (0.5, 0.5, 1.0),
  ],
)
def test_light_strokes_show(stroke, ground, level):
  assert render.ground(strokes(stroke, ground)) == level
  assert render.ground(strokes(stroke, ground).mean(-1, keepdims=True)) == level


def test_every_picture_has_the_same_ground():
  ex = explanation(count=1, targets=3, size=24)
  ex.images[0] = strokes(1.0, 0.0)
  ex.weights[:] = 0
  ex.contributions[:] = 0
  for k in range(3):
    np.testing.assert_allclose(render.view(ex, (0, k)).colored, 0.5)
  white = render.view(ex, 0, options=render.Options(background=1.0)).colored
  np.testing.assert_allclose(white, 1)


# From a bundle to its pictures.


@pytest.mark.parametrize(
  ("ops", "provenance", "words"),
  [
    (BcosOps.v2(), {"source": "x", "bcosified": {}}, "not fine-tuned"),
    (BcosOps.v2(), {"recipe": {}}, kinds.EXACT),
    (StandardOps(), {}, "post hoc: not exact for this network"),
  ],
)
def test_a_bundle_decides_what_is_said(tmp_path, ops, provenance, words):
  model = tiny("resnet_tiny", ops)
  bcos_jax.save(tmp_path / "net", model, filled(model), provenance=provenance)
  Image.fromarray(np.uint8(255 * photos(1, 40)[0])).save(tmp_path / "p.png")
  lines = []
  explain_pictures(
    bcos_jax.load(tmp_path / "net"), [tmp_path / "p.png"], output=tmp_path / "out", say=lines.append
  )
  assert any(line.strip().startswith(words) for line in lines)
  assert words in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_untrained_bcosified_network_is_not_confident():
  plain = tiny("resnet_tiny", StandardOps())
  ops = BcosOps(logit_bias=-2.0)
  model, variables = bcos_jax.bcosify(plain, filled(plain), ops=ops)
  # As in deep networks with B=2, where the activations shrink from layer to layer.
  small = jax.tree.map(lambda leaf: leaf * 1e-3, variables)
  ex = bcos_jax.explain(model, small, photos(2, 16))
  shown = render.view(ex, 0, options=render.Options(origin=COPIED))
  assert shown.kind == NOT_TUNED and np.ptp(shown.heat) < 0.02


# Wrong predictions.


def test_the_difference_of_two_classes_of_one_picture():
  ex = explanation(count=2, targets=3)
  found = ex.rather_than((1, 0), (1, 2))
  np.testing.assert_array_equal(
    found.contributions[0], ex.contributions[1, 0] - ex.contributions[1, 2]
  )
  np.testing.assert_array_equal(found.images[0], ex.images[1])
  assert found.target is None and float(found.completeness_error[0]) < 1e-5


def test_wrong_predictions_are_contrasted_with_the_truth(tmp_path):
  probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 0.7]])
  predicted = showcase.Predicted(probabilities, np.array([1, 1, 0]), np.ones(3, bool))
  wrong, right = showcase.choose(predicted)
  assert wrong == [(0, 0, 1), (2, 2, 0)] and right == [(1, 1, None)]
  several = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
  wrong, _ = showcase.choose(predicted._replace(labels=several))
  assert wrong == [(0, 1, 2), (2, 2, None)]

  ex = explanation(count=2, targets=2)
  render.report(tmp_path / "r.html", "x", [render.Entry(ex, (1, 0), LABELS, rival=(1, 1))])
  reader, text = read(tmp_path / "r.html")
  names = [LABELS[target] for target in ex.target[1]]
  assert f"{names[0]} rather than {names[1]}: contributions" in text
  assert len(reader.images) == 6 and len(set(text.split("full colour: ±")[1:])) == 3
  full = {part.split(")")[0] for part in text.split("full colour: ±")[1:]}
  assert len(full) == 1  # one scale
