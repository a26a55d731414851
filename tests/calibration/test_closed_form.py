"""Whole networks in closed form: exact where they can be, close to the teacher elsewhere."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps, calibration
from bcos_jax.calibration import closed_form

from ..common import TINY, filled, flat, photos, rel, tiny

IMAGES = photos(24)
FAST = calibration.Calibration(
  rows=600, rows_per_channel=2, batch_size=12, effort=calibration.Effort(rounds=1, inner=5)
)


def _twin(name, ops, **settings):
  """Returns teacher, student as B-cosified, and in closed form with its report."""
  model = tiny(name, StandardOps())
  variables = filled(model)
  student, start = bcos_jax.bcosify(model, variables, ops=ops)
  made, report = calibration.calibrate(
    model, variables, student, start, IMAGES, dataclasses.replace(FAST, **settings)
  )
  return (model, variables), (student, start), made, report


def _outputs(model, variables):
  return np.asarray(closed_form.apply(model, variables, IMAGES))


COMMON = ("resnet_tiny", "simple_vit_tiny", "densenet_tiny")


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=() if n in COMMON else pytest.mark.slow) for n in TINY]
)
def test_b_1_returns_the_teachers_function(name):
  teacher, (student, _), made, _ = _twin(name, BcosOps.equivalent())
  assert rel(_outputs(student, made), _outputs(*teacher)) <= 1e-4


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=() if n == "resnet_tiny" else pytest.mark.slow) for n in TINY]
)
def test_is_closer_to_the_teacher_than_the_published_start(name):
  teacher, (student, start), made, report = _twin(name, BcosOps(), head="logits")
  wanted = _outputs(*teacher)
  begun, done = (rel(_outputs(student, v), wanted) for v in (start, made))
  assert done < 0.9 * begun
  for fitted in report.maps:
    assert fitted.fit >= fitted.before
    assert fitted.kept == (fitted.fit == fitted.before)
  assert not report.left


@pytest.mark.parametrize("weights", ["unit", "cosine"])
def test_every_kind_of_weights_gives_the_same_function(weights):
  """Unit weights leave their length to the norm; heads have none, and reach less."""
  _, (student, _), made, plain = _twin("resnet_tiny", BcosOps())
  _, (other, _), others, report = _twin("resnet_tiny", BcosOps(weights=weights))
  for mine, theirs in zip(plain.maps[:-1], report.maps[:-1], strict=True):
    assert theirs.fit == pytest.approx(mine.fit, abs=0.02)
  if weights == "cosine":
    assert rel(_outputs(other, others), _outputs(student, made)) < 0.05


def test_norms_are_the_identity_with_the_statistics_of_their_batch():
  """Otherwise the first training step, which takes the batch's, would undo the fit."""
  _, (student, _), made, _ = _twin("resnet_tiny", BcosOps())
  inputs = student.ops.encoding(IMAGES)
  trained, updated = student.apply(made, inputs, train=True, mutable=["batch_stats"])
  assert rel(np.asarray(trained), _outputs(student, made)) < 0.05
  before, after = flat(made["batch_stats"]), flat(updated["batch_stats"])
  assert max(rel(after[path], before[path]) for path in before) < 0.02


def test_the_head_aims_at_log_odds_where_logits_have_a_bias():
  teacher, (student, _), made, _ = _twin("resnet_tiny", BcosOps(), rows=2000)
  p = np.asarray(jax.nn.softmax(_outputs(*teacher)))
  odds = np.clip(np.log(p / (1 - p)), -6, 6)
  logits = _outputs(student, made)
  centred = [values - values.mean(0) for values in (logits, odds)]
  assert abs(logits.mean() - odds.mean()) < 0.5
  assert np.corrcoef(*[c.ravel() for c in centred])[0, 1] > 0.5


def test_twice_the_same_bits_and_other_places_by_the_seed():
  first, again, other = (_twin("resnet_tiny", BcosOps(), seed=s)[2] for s in (0, 0, 1))
  assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (first, again)), strict=True))
  assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True))


def test_batches_change_nothing():
  """Their sizes do not divide the pictures: what fills up the last one is left out.

  Sums in another order, carried on through all maps: the function is compared, to a percent.
  """
  (_, (student, _), whole, _), (_, _, parts, _) = (
    _twin("resnet_tiny", BcosOps(), batch_size=size) for size in (24, 7)
  )
  assert rel(_outputs(student, parts), _outputs(student, whole)) < 1e-2


def test_inputs_are_not_modified_and_leaves_keep_their_dtypes():
  model = tiny("resnet_tiny", StandardOps())
  variables = filled(model)
  student, start = bcos_jax.bcosify(model, variables, ops=BcosOps())
  copy = jax.tree.map(np.array, start)
  made, _ = calibration.calibrate(model, variables, student, start, IMAGES, FAST)
  assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (start, copy)), strict=True))
  for a, b in zip(*map(jax.tree.leaves, (made, start)), strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype


def test_bcosify_takes_pictures_and_warns():
  model = tiny("resnet_tiny", StandardOps())
  variables = filled(model)
  with pytest.warns(UserWarning, match="maps see more channels than half their places"):
    student, made = bcos_jax.bcosify(model, variables, calibrate=IMAGES)
  ex = bcos_jax.explain(student, made, IMAGES[:2])
  assert ex.completeness_error.max() < 1e-5


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (IMAGES[0], "expected [N, H, W, C]"),
    (IMAGES[:3], "expected at least 8"),
    (255 * IMAGES, "expected colours in [0, 1]"),
    (IMAGES * np.nan, "expected colours in [0, 1]"),
    (np.full_like(IMAGES, 0.5), "all the same"),
    (np.broadcast_to(IMAGES[:, :1, :1], IMAGES.shape), "of one colour each"),
    ({"tokens": np.ones((9, 4), np.int32)}, "all the same"),
  ],
)
def test_refuses_what_nothing_can_be_fitted_to(given, message):
  model = tiny("resnet_tiny", StandardOps())
  with pytest.raises(InputError, match=re.escape(message)):
    bcos_jax.bcosify(model, filled(model), calibrate=given)


@pytest.mark.parametrize(("features", "said"), [(False, "for 30% of the held"), (True, "is 0.30")])
def test_inputs_of_another_domain_are_warned_of(features, said):
  report = calibration.Report((), (), 0.1, 0.3, features=features)
  (warning,) = report.warnings
  assert said in warning and "Are the inputs of the domain" in warning
  assert not dataclasses.replace(report, agreement=0.9).warnings


def _given(name="resnet_tiny"):
  model = tiny(name, StandardOps())
  variables = filled(model)
  return model, variables, *bcos_jax.bcosify(model, variables)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"rows": 0}, "rows is 0, expected a whole number of at least 1"),
    ({"rows_per_channel": 1.5}, "rows_per_channel is 1.5"),
    ({"held_out": 0}, "held_out is 0, expected a share between 0 and 1"),
    ({"held_out": 1.0}, "held_out is 1.0"),
    ({"held_out": float("nan")}, "held_out is nan"),
    ({"head": "log_odd"}, "Did you mean 'log_odds'"),
    ({"clip": 0.0}, "clip is 0.0, expected a number above 0"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": True}, "batch_size is True"),
    ({"seed": -1}, "seed is -1"),
    ({"effort": calibration.Effort(rounds=-1)}, "effort.rounds is -1"),
    ({"effort": calibration.Effort(one_sided=0.5)}, "effort.one_sided is 0.5"),
  ],
)
def test_refuses_settings_out_of_range(settings, message):
  with pytest.raises(InputError, match=re.escape(message)):
    calibration.Calibration(**settings)


@pytest.mark.parametrize(("share", "which"), [(0.01, "none"), (0.99, "all")])
def test_some_inputs_are_fitted_and_some_held_out(share, which):
  with pytest.raises(InputError, match=f"of 24 inputs holds {which} out, expected 1 to 23"):
    calibration.calibrate(*_given(), IMAGES, calibration.Calibration(held_out=share))


def test_a_teacher_is_conventional_and_a_student_is_not():
  model, variables, student, start = _given()
  for teacher, learner, message in (
    (student, student, "The teacher, a ResNet, is a B-cos network, expected a conventional one"),
    (model, model, "The student, a ResNet, is a conventional one, expected a B-cos network"),
    (model, student.clone(ops=BcosOps(max_out=2)), "The student has max_out=2"),
  ):
    with pytest.raises(InputError, match=re.escape(message)):
      calibration.calibrate(teacher, variables, learner, start, IMAGES, FAST)


@pytest.mark.parametrize(
  ("value", "problem"),
  [(0.0, "aims at the same in all places"), (np.nan, "aims at values that are not finite")],
)
def test_maps_to_which_nothing_can_be_fitted_stay_as_they_were_and_are_named(value, problem):
  model, variables, student, start = _given()
  broken = jax.tree.map(np.array, variables)
  broken["params"]["layer1_0"]["conv1"]["kernel"][:] = value
  made, report = calibration.calibrate(model, broken, student, start, IMAGES, FAST)
  about = {m.path: m for m in report.maps}["layer1_0/conv1"]
  assert about.kept and about.problem == problem and about.fit == 0.0
  for leaf in ("params/layer1_0/conv1/kernel", "params/layer1_0/bn1/scale"):
    np.testing.assert_array_equal(flat(made)[leaf], flat(start)[leaf])
  assert any(problem in said and "layer1_0/conv1" in said for said in report.warnings)
  assert all(np.isfinite(leaf).all() for leaf in flat(made).values())
