"""Families are open: what a user may register, and what is said where it does not fit."""

import dataclasses
import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, Ops, StandardOps, layers, ops
from bcos_jax import functional as F
from bcos_jax.errors import InputError

from ..common import applied, filled, photos, rel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quieter(BcosOps):
  """Every activation is scaled."""

  factor: float = 0.5
  marks: tuple[float, ...] = ()
  guard: F.Guard = F.CONV_GUARD

  def act(self, x, kind, *, last=False):
    return self.factor * super().act(x, kind, last=last)


class Unheld(BcosOps):
  """Forgets explanation mode in its dense maps."""

  def dense(self, features, *, gate=None, use_bias=True, name):
    return layers.BcosDense(features, b=self.b, gate=gate, name=name)


class UnheldGate(StandardOps):
  """Forgets explanation mode in its activations."""

  def gated(self, x, kind):
    return F.gated(x, kind)


class Other(StandardOps):
  """Computes something else when detached."""

  def layer_norm(self, *, name, eps=1e-5):
    return layers.LayerNorm(eps=1.0 if self.detach else eps, name=name)


def test_a_registered_family_is_bcosified_explained_saved_and_loaded(tmp_path):
  ops.register("quieter", Quieter)
  ops.register("quieter", Quieter)  # A notebook runs its cells twice.
  model = bcos_jax.create("resnet8", ops=StandardOps(), num_classes=3, width=4)
  variables, images = filled(model), photos(2)
  family = Quieter(factor=0.25, marks=(1.0, 2.0), guard=F.Guard(eps=1e-3, inside=False))
  own, variables = bcos_jax.bcosify(model, variables, ops=family)
  explanation = bcos_jax.explain(own, variables, images)
  plain = bcos_jax.explain(own.clone(ops=BcosOps()), variables, images)
  bcos_jax.save(tmp_path / "bundle", own, variables)
  bundle = bcos_jax.load(tmp_path / "bundle")
  again = applied(bundle.model)(bundle.variables, images)
  assert explanation.completeness_error.max() <= 1e-5
  assert rel(explanation.logits, plain.logits) > 1e-2
  assert bundle.model == own and bundle.model.ops.factor == 0.25
  assert rel(again, explanation.logits) <= 1e-5


def test_fields_come_back_from_json():
  ops.register("quieter", Quieter)
  family = Quieter(marks=(1.0,), encoding=Encoding((0.5,), (0.5,), "negated"))
  assert ops.from_dict(json.loads(json.dumps(ops.to_dict(family)))) == family
  assert ops.from_dict({"family": "quieter", "guard": {"eps": 0.5}}).guard == F.Guard(0.5, True)
  with pytest.raises(InputError, match=r"field of the 'quieter' ops 'facter'.*'factor'"):
    ops.from_dict({"family": "quieter", "facter": 2.0})


def test_a_family_without_a_name_is_not_saved(tmp_path):
  model = bcos_jax.create("resnet8", ops=Unheld(), width=4)
  with pytest.raises(InputError, match=r"Unheld is not registered.*ops\.register"):
    bcos_jax.save(tmp_path / "bundle", model, filled(model))
  assert not (tmp_path / "bundle").exists()


def test_an_unknown_family_may_be_ones_own():
  with pytest.raises(InputError, match=r"family 'mine'.*bcos_jax\.ops\.register"):
    ops.from_dict({"family": "mine"})


def _undecorated():
  class Undecorated(BcosOps):
    strength: float = 1.0

  return Undecorated


def _without_default():
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class WithoutDefault(BcosOps):
    strength: float

  return WithoutDefault


@pytest.mark.parametrize(
  "name, family, message",
  [
    ("bcos", Quieter, "'bcos' exists already"),
    ("aloe", Quieter, "'aloe' exists already"),
    ("two words", Quieter, "letters"),
    ("mine", Quieter(), "not a subclass"),
    ("mine", layers.BcosDense, "not a subclass"),
    ("mine", Ops, "lacks act, average, batch_norm"),
    ("mine", _undecorated(), "strength.*dataclass"),
    ("mine", _without_default(), "strength.*default"),
  ],
)
def test_what_cannot_be_registered(name, family, message):
  with pytest.raises(InputError, match=message):
    ops.register(name, family)
  with pytest.raises(InputError, match="family 'mine'"):
    ops.from_dict({"family": "mine"})


def test_a_name_belongs_to_one_class():
  ops.register("quieter", Quieter)
  with pytest.raises(InputError, match="'quieter' exists already"):
    ops.register("quieter", Unheld)


# Bundles and recipes of 0.1.0.

OLD = {
  "plain": {"unit_norm": False, "cosine_of_weights": False},
  "unit": {"unit_norm": True, "cosine_of_weights": False},
  "cosine": {"unit_norm": False, "cosine_of_weights": True},
}


@pytest.mark.parametrize("weights", OLD)
@pytest.mark.parametrize("family", ["bcos", "bcos_v2", "aloe"])
def test_old_names_of_weights(weights, family):
  assert ops.from_dict({"family": family, **OLD[weights]}).weights == weights
  fields = {f"ops.{name}": value for name, value in OLD[weights].items()}
  now = ops.current({"ops.family": family, "steps": 3, **fields}, "ops.")
  assert now == {"ops.family": family, "steps": 3, "ops.weights": weights}


def test_one_old_name_leaves_the_preset():
  assert ops.from_dict({"family": "aloe", "unit_norm": False}).weights == "cosine"
  assert ops.from_dict({"family": "bcos_v2", "unit_norm": False}).weights == "plain"
  with pytest.raises(InputError, match="unit_norm"):
    ops.from_dict({"family": "bcos", "weights": "unit", "unit_norm": True})
  with pytest.raises(InputError, match="unit_norm"):
    ops.from_dict({"family": "standard", "unit_norm": True})


# Explanation mode.


@pytest.mark.parametrize(
  "family",
  [StandardOps(), BcosOps.v1(b=1.5), BcosOps.lm(learn_b=True), BcosOps.aloe(norm="group")],
  ids=["standard", "v1", "lm", "aloe"],
)
def test_families_hold_what_they_compute(family):
  ops.check_detached(family)


@pytest.mark.parametrize(
  "family, message",
  [
    (Unheld(), "dense: its derivative is the plain one; dense with a gate: its derivative times"),
    (UnheldGate(), "act gelu: its derivative times the input is not its value"),
    (Other(), "layer_norm: its value changes"),
    (BcosOps(hold_gated_factor=False), "weigh: its derivative times"),
  ],
  ids=["layer", "gate", "value", "published"],
)
def test_what_is_not_held_is_named(family, message):
  with pytest.raises(InputError, match=message) as caught:
    ops.check_detached(family)
  assert "conv:" not in caught.value.cause


# What others ask.


class Squares(nn.Module):
  """A head whose place before or after the pooling shows."""

  ops: Ops
  tokens: bool

  @nn.compact
  def __call__(self, x):
    return self.ops.readout(jnp.square, x, tokens=self.tokens)


def test_what_families_answer():
  standard, bcos = StandardOps(), BcosOps(use_bias=True)
  assert (standard.conventional, bcos.conventional) == (True, False)
  assert (standard.probability, bcos.probability) == ("softmax", "sigmoid")
  assert standard.has_biases and bcos.has_biases and not BcosOps().has_biases
  assert not standard.has_logit_layer and standard.with_logits(-1.0, 2.0) == standard
  assert standard.pool_first() == standard
  x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
  own = bcos.pool_first().with_logits(-1.0, 2.0)
  assert own.has_logit_layer
  for tokens in (False, True):
    y = Squares(own, tokens).apply({}, x)
    np.testing.assert_allclose(y, jnp.mean(x, (1, 2)) ** 2 / 2 - 1, rtol=1e-5)


def test_an_encoding_is_one():
  for family in (StandardOps, BcosOps):
    with pytest.raises(InputError, match="encoding is 3, expected"):
      family(encoding=3)
