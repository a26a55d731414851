"""The published convention of contributions, against the gradient that it is defined by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, metrics
from bcos_jax.errors import InputError
from bcos_jax.explain.conventions import NAME

from ..common import filled, photos, rel, tiny


@pytest.fixture(scope="module")
def network():
  model = tiny("resnet_tiny", BcosOps())
  return model, filled(model), photos(2)


@pytest.mark.parametrize("target", [1, np.array([[0, 3], [2, 1]])])
def test_published_contributions_are_input_times_gradient_before_normalisation(network, target):
  model, variables, images = network
  exact = bcos_jax.explain(model, variables, images, target=target)
  found = bcos_jax.as_published(exact, model.ops.encoding)
  encoding, detached = model.ops.encoding, model.clone(ops=model.ops.detached())
  mean, std = np.array(encoding.mean), np.tile(encoding.std, 2)
  both = np.concatenate([images, 1 - images], axis=-1)

  def logits(raw):
    return detached.apply(variables, (raw - np.concatenate([mean, 1 - mean])) / std)

  columns = np.full((2, 1), target) if np.ndim(target) == 0 else target
  weights = jax.vmap(lambda raw, own: jax.jacrev(lambda x: logits(x[None])[0][own])(raw))(
    jnp.asarray(both), jnp.asarray(columns)
  )
  expected = (both[:, None] * weights).sum(-1)
  expected = expected if np.ndim(target) else expected[:, 0]
  assert rel(found.contributions, expected) < 1e-5
  assert rel(found.contributions, exact.contributions) > 0.1
  total = found.contributions.sum((-2, -1)) + sum(found.residuals.values())
  np.testing.assert_allclose(total, exact.value, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found.residual, sum(found.residuals.values()), rtol=1e-4, atol=1e-5)
  assert NAME in found.residuals and NAME not in exact.residuals
  assert np.abs(found.residuals["unexplained"]).max() < 1e-4
  assert found.completeness_error.max() < 1e-5


def test_where_there_is_one_convention_nothing_changes(network):
  model, _, images = network
  for ops in (BcosOps.v2(), StandardOps()):
    other = tiny("resnet_tiny", ops)
    exact = bcos_jax.explain(other, filled(other), images)
    assert bcos_jax.as_published(exact, other.ops.encoding) is exact
  with pytest.raises(InputError, match="of explanations of pictures, got int"):
    bcos_jax.as_published(3, model.ops.encoding)


def test_metrics_take_either_convention(network):
  model, variables, images = network
  targets = np.array([0, 1])
  exact, published = (
    metrics.attribute_with(model, variables, published=one)(images, targets)
    for one in (False, True)
  )
  ex = bcos_jax.explain(model, variables, images, target=targets)
  np.testing.assert_array_equal(exact, ex.contributions)
  own = bcos_jax.as_published(ex, model.ops.encoding)
  np.testing.assert_array_equal(published, own.contributions)
  drawn = bcos_jax.render.rgba(own)
  assert drawn.shape == (*images.shape[:3], 4) and np.isfinite(np.asarray(drawn)).all()
