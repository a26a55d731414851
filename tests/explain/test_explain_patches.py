"""Explanations of patches: complete, linear in the read-out, and at the right position."""

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError

from ..common import applied, filled, photos, rel, tiny

NAMES = ("vit_test", "dinov3_test", "siglip_test", "clip_resnet_test")


def network(name: str, **fields):
  model = tiny(name, BcosOps(b=1.5, use_bias=True), **fields)
  return model, filled(model)


@pytest.mark.parametrize("name", NAMES)
def test_read_outs_of_patches_are_explained_completely(name):
  model, variables = network(name)
  images = photos(2, 32)
  dense = bcos_jax.backbone(model)
  features = np.asarray(applied(dense)(variables, images))
  n, rows, columns, width = features.shape
  assert n == 2 and min(rows, columns) > 1
  kernel = np.random.default_rng(0).standard_normal((width, 2)).astype(np.float32)
  ex = bcos_jax.explain_patches(model, variables, images, kernel, at=[(0, 0), (1, 0)])
  expected = [[picture[0, 0] @ kernel[:, 0], picture[1, 0] @ kernel[:, 1]] for picture in features]
  np.testing.assert_allclose(ex.value, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
  assert ex.contributions.shape == (2, 2, 32, 32)
  assert ex.completeness_error.max() < 1e-5
  assert rel(ex.contributions.sum((2, 3)) + ex.residual, ex.value) < 1e-5


def test_read_outs_are_linear():
  """Explaining a sum of directions over a region is summing explanations of its patches."""
  model, variables = network("vit_test")
  images = photos(1)
  width = applied(bcos_jax.backbone(model))(variables, images).shape[-1]
  eye = np.eye(width, dtype=np.float32)
  both = bcos_jax.explain_patches(
    model, variables, images, eye[:, 0] + 2 * eye[:, 1], at=[(0, 0), (1, 1)]
  )
  single = [
    bcos_jax.explain_patches(model, variables, images, eye[:, d], at=[(0, 0), (1, 1)])
    for d in (0, 1)
  ]
  assert rel(both.contributions, single[0].contributions + 2 * single[1].contributions) < 1e-5
  region = np.zeros((1, 4, 4))
  region[0, [0, 1], [0, 1]] = 3
  mean = bcos_jax.explain_patches(model, variables, images, eye[:, 0], regions=region)
  assert rel(mean.weights[:, 0], single[0].weights.mean(axis=1)) < 1e-5


def test_all_patches_together_are_the_mean_pooled_features():
  model, variables = network("vit_test", num_classes=0, pool="mean", pooler=0)
  images = photos(2)
  width = applied(model)(variables, images).shape[-1]
  pooled = bcos_jax.explain(model, variables, images, target=lambda features: features[:, 3])
  ex = bcos_jax.explain_patches(model, variables, images, np.eye(width)[:, 3])
  assert rel(ex.value[:, 0], pooled.value) < 1e-5
  assert rel(ex.weights[:, 0], pooled.weights) < 1e-5


def test_a_patch_without_context_sees_itself_alone():
  """Without blocks no patch knows of another: contributions lie within it."""
  model, variables = network("vit_test", depth=0)
  dense = bcos_jax.backbone(model)
  width = jax.eval_shape(dense.apply, variables, dense.input_spec).shape[-1]
  ex = bcos_jax.explain_patches(model, variables, photos(1), np.ones(width), at=[(1, 2)])
  side = model.patch_size
  inside = np.zeros((16, 16), bool)
  inside[side : 2 * side, 2 * side : 3 * side] = True
  assert np.abs(ex.weights[0, 0][inside]).min() > 0
  assert not ex.weights[0, 0][~inside].any()


@pytest.mark.parametrize(
  ("kernel", "places", "part"),
  [
    (np.ones(3), {}, r"\(3,\).*32"),
    (None, {"at": [(0, 4)]}, "4 rows and 4 columns"),
    (None, {"at": [(0.5, 1)]}, "4 rows and 4 columns"),
    (None, {"at": []}, "4 rows and 4 columns"),
    (None, {"at": [(0, 0)], "regions": np.ones((1, 4, 4))}, "Both"),
    (None, {"regions": np.ones((1, 5, 4))}, "expected weights of at least zero"),
    (None, {"regions": -np.ones((1, 4, 4))}, "expected weights of at least zero"),
    (None, {"regions": np.zeros((1, 4, 4))}, "A region is empty"),
    (2, {"at": [(0, 0), (0, 1), (0, 2)]}, "2.*3"),
  ],
)
def test_what_does_not_fit_is_refused(kernel, places, part):
  model, variables = network("vit_test")
  if not isinstance(kernel, np.ndarray):
    kernel = np.ones((model.width, kernel or 1))
  with pytest.raises(InputError, match=part):
    bcos_jax.explain_patches(model, variables, photos(1), kernel, **places)


def test_networks_without_patches_are_refused():
  model = tiny("resnet_tiny", BcosOps())
  with pytest.raises(InputError, match=r"ResNet.*patches"):
    bcos_jax.backbone(model)
  with pytest.raises(InputError, match=r"'none'.*5 classes"):
    vit = tiny("vit_test", BcosOps(), pool="none")
    vit.init(jax.random.key(0), vit.input_spec)
