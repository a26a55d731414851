"""Losses against golden numbers and against general properties."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax.errors import InputError
from bcos_jax.train.objectives import losses

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "layers.npz")
LOGITS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * 3
LABELS = np.array([0, 4, 1, 1, 2, 3])


@pytest.mark.parametrize(
  "case, loss",
  [
    ("loss_uniform_off_bce", losses.uniform_off_label_bce),
    ("loss_uniform_off_bce_dense", losses.uniform_off_label_bce),
    ("loss_bce_smoothing", functools.partial(losses.bce, smoothing=0.1)),
  ],
)
def test_golden(case, loss):
  values = loss(jnp.asarray(GOLDEN[f"{case}/logits"]), jnp.asarray(GOLDEN[f"{case}/targets"]))
  np.testing.assert_allclose(values.mean(), GOLDEN[f"{case}/loss"], rtol=1e-6)


def test_golden_siglip():
  values = losses.siglip(GOLDEN["loss_siglip/image"], GOLDEN["loss_siglip/text"])
  np.testing.assert_allclose(values.mean(), GOLDEN["loss_siglip/loss"], rtol=1e-6)


def test_closed_forms():
  p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
  soft = np.maximum(np.eye(5)[LABELS], 0.2)
  expected = -(soft * np.log(p) + (1 - soft) * np.log(1 - p)).mean(1)
  np.testing.assert_allclose(
    losses.uniform_off_label_bce(LOGITS, jnp.asarray(LABELS)), expected, rtol=1e-5
  )
  q = np.exp(LOGITS.astype(np.float64))
  expected = -np.log((q / q.sum(1, keepdims=True))[np.arange(6), LABELS])
  np.testing.assert_allclose(losses.cross_entropy(LOGITS, jnp.asarray(LABELS)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_soft_labels_generalise_class_numbers(name):
  loss = losses.from_config(name, {"smoothing": 0.1, "off": -1.0})
  soft = jnp.eye(5)[LABELS]
  np.testing.assert_array_equal(loss(LOGITS, jnp.asarray(LABELS)), loss(LOGITS, soft))


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_low_precision_logits_and_extreme_values(name):
  loss = losses.from_config(name, {"smoothing": 0.0, "off": -1.0})
  low = loss(jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(LABELS))
  assert low.dtype == jnp.float32
  extreme = jnp.asarray([[1e4, -1e4, 0, 0, 0]])
  grads = jax.grad(lambda x: loss(x, jnp.asarray([1])).mean())(extreme)
  assert np.isfinite(loss(extreme, jnp.asarray([1]))).all() and np.isfinite(grads).all()


def test_off_zero_is_plain_bce():
  np.testing.assert_array_equal(
    losses.uniform_off_label_bce(LOGITS, jnp.asarray(LABELS), off=0.0),
    losses.bce(LOGITS, jnp.asarray(LABELS)),
  )


def test_bad_names_and_values():
  with pytest.raises(InputError, match="cross_entropy"):
    losses.from_config("crossentropy", {"smoothing": 0.0, "off": -1.0})
  with pytest.raises(InputError, match="smoothing"):
    losses.from_config("bce", {"smoothing": 1.5, "off": -1.0})
