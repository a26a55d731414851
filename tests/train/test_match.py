"""Label-free matching of predictions, and batch norms that keep their running statistics."""

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps
from bcos_jax.train import loop, objectives, start
from bcos_jax.train.config import load_config
from bcos_jax.train.objectives import losses

from ..common import applied, filled, flat, photos, tiny


@pytest.fixture(scope="module")
def pair():
  """A conventional classifier and its B-cos twin, with their variables."""
  model = tiny("resnet_tiny", StandardOps())
  variables = filled(model)
  return (model, variables), bcos_jax.bcosify(model, variables, ops=BcosOps())


def test_the_teachers_probabilities_are_the_targets(pair):
  (teacher, frozen), (student, variables) = pair
  goal = objectives.Match(student, objectives.Teacher(teacher), losses.bce)
  images = photos(3)
  found = jax.jit(goal.evaluate)(variables, {"image": images}, frozen)
  other, own = (np.asarray(applied(m)(v, images), np.float64) for m, v in pair)
  p = np.exp(other - other.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  loss = (np.logaddexp(0, own) - p * own).mean(-1)
  np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
  np.testing.assert_array_equal(found["agreement"], own.argmax(-1) == other.argmax(-1))


def test_no_label_is_read(pair):
  (teacher, frozen), (student, variables) = pair
  goal = objectives.Match(student, objectives.Teacher(teacher), losses.bce)
  batch = {"image": photos(2)}  # that has none
  _, (_, measured) = goal.train(
    variables["params"], variables["batch_stats"], batch, frozen, jax.random.key(0)
  )
  assert set(measured) == {"loss", "agreement"}


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_running_statistics_stay_and_are_used(pair, statistics):
  (teacher, frozen), (student, variables) = pair
  goal = objectives.Match(student, objectives.Teacher(teacher), losses.bce, statistics=statistics)
  stats, batch = variables["batch_stats"], {"image": photos(4)}
  loss, (after, _) = jax.jit(goal.train)(
    variables["params"], stats, batch, frozen, jax.random.key(0)
  )
  evaluated = float(np.mean(goal.evaluate(variables, batch, frozen)["loss"]))
  same = [np.array_equal(a, flat(stats)[path]) for path, a in flat(after or stats).items()]
  if statistics == "running":
    assert all(same) and float(loss) == pytest.approx(evaluated, rel=1e-5)
  else:
    assert not any(same) and float(loss) != pytest.approx(evaluated, rel=1e-3)


def test_networks_of_other_classes_are_refused(pair):
  (teacher, _), (student, _) = pair
  other = teacher.clone(num_classes=student.num_classes + 1)
  goal = objectives.Match(student, objectives.Teacher(other), losses.bce)
  with pytest.raises(InputError, match=rf"student has {student.num_classes} classes, the teacher"):
    goal.check(32)


def test_a_run_matches_its_own_start(tmp_path):
  """From a bundle alone: the student is the teacher's B-cos twin, fitted and then trained."""
  teacher = bcos_jax.create("resnet_tiny", ops=StandardOps(), num_classes=10, image_size=16)
  bundle = bcos_jax.save(tmp_path / "teacher", teacher, filled(teacher))
  options = {
    "objective.teacher": bundle,
    **{"model.name": "resnet_tiny", "model.image_size": 16, "data.image_size": 16},
    **{"steps": 12, "eval_every": 4, "mesh.data": 1, "calibrate": 0, "optimizer.lr": 1e-3},
    **{"data.train_split": "train[:64]", "data.test_split": "test[:16]", "data.batch_size": 16},
    "ops.encoding": {"pairing": "negated", **_encoding(teacher)},
  }
  config = load_config("digits:match", [f"--config.{k}={v}" for k, v in options.items()])
  result = loop.train(config, workdir=tmp_path / "run", progress=False)
  first, *_, last = result.history
  assert last["loss"] < first["loss"] and "agreement" in last
  begun = start.network(config)[1]
  found = jax.device_get(result.variables)["batch_stats"]
  for path, leaf in flat(begun["batch_stats"]).items():
    np.testing.assert_array_equal(flat(found)[path], leaf)


def _encoding(model):
  return {"mean": model.ops.encoding.mean, "std": model.ops.encoding.std}
