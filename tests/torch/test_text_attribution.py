"""Attributions of texts against Captum, on a small network in both frameworks.

What differs is the order of float32 sums; sampled methods are compared where they are exact.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from bcos_jax.attribution import text as methods  # noqa: E402
from bcos_jax.attribution.text import TextTask  # noqa: E402

from ..common import rel  # noqa: E402

pytestmark = pytest.mark.torch

VOCABULARY, WIDTH, CLASSES = 12, 6, 3
PAD, CLS, SEP, MASK = range(4)
IDS = np.array([[CLS, 5, 9, 6, 11, SEP], [CLS, 7, 4, 8, SEP, PAD]])
REAL = IDS != PAD
FREE = IDS > MASK
TARGETS = np.array([2, 0])


@functools.cache
def weights():
  random = np.random.default_rng(0)
  shapes = {"table": (VOCABULARY, WIDTH), "q": (WIDTH, WIDTH), "head": (WIDTH, CLASSES)}
  return {name: random.standard_normal(shape).astype("f") for name, shape in shapes.items()}


@functools.cache
def task():
  table, q, head = weights().values()

  def embed(ids, mask):
    return jnp.asarray(table)[ids]

  def forward(x, mask):
    scores = jnp.einsum("nd,de,nle->nl", x[:, 0], q, x)
    shares = jnp.exp(scores - scores.max(1, keepdims=True)) * mask
    shares = shares / shares.sum(1, keepdims=True)
    return jnp.tanh(jnp.einsum("nl,nld->nd", shares, x)) @ head

  return TextTask(
    predict=lambda ids, mask: forward(embed(ids, mask), mask),
    embed=embed,
    forward=forward,
    mask_id=MASK,
    special_ids=(PAD, CLS, SEP),
  )


def forward(x, mask):
  _, q, head = (torch.tensor(value) for value in weights().values())
  scores = torch.einsum("nd,de,nle->nl", x[:, 0], q, x)
  shares = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=1)
  return torch.tanh(torch.einsum("nl,nld->nd", shares, x)) @ head


def predict(ids, mask):
  return forward(torch.tensor(weights()["table"])[ids], mask)


def tensors():
  masked = np.where(FREE, MASK, IDS)
  return [torch.tensor(a) for a in (IDS, masked, REAL, TARGETS)]


def embedded(ids):
  return torch.tensor(weights()["table"])[ids].requires_grad_()


def test_gradient_methods_are_captums():
  from captum.attr import InputXGradient, IntegratedGradients, Saliency

  ids, masked, real, targets = tensors()
  arguments = {"target": targets, "additional_forward_args": (real,)}
  found = Saliency(forward).attribute(embedded(ids), **arguments)
  assert (
    rel(methods.saliency(task(), IDS, REAL, TARGETS), found.mean(-1).detach().numpy() * REAL) < 1e-5
  )
  found = methods.saliency(task(), IDS, REAL, TARGETS, size="l2")
  signed = Saliency(forward).attribute(embedded(ids), abs=False, **arguments)
  assert rel(found, signed.norm(dim=-1).detach()) < 1e-5
  found = InputXGradient(forward).attribute(embedded(ids), **arguments)
  ours = methods.input_x_gradient(task(), IDS, REAL, TARGETS)
  assert rel(ours, found.sum(-1).detach()) < 1e-5
  for baseline, start in (("mask", embedded(masked)), ("zero", None)):
    found = IntegratedGradients(forward).attribute(embedded(ids), start, n_steps=20, **arguments)
    ours = methods.integrated_gradients(task(), IDS, REAL, TARGETS, steps=20, baseline=baseline)
    assert rel(ours, found.sum(-1).detach()) < 1e-5


def test_perturbing_methods_are_captums():
  from captum.attr import FeatureAblation, ShapleyValues

  ids, masked, real, targets = tensors()
  found = FeatureAblation(predict).attribute(
    ids, masked, target=targets, additional_forward_args=(real,)
  )
  assert rel(methods.occlusion(task(), IDS, REAL, TARGETS), found.numpy() * FREE) < 1e-5
  for row in range(2):  # groups are Captum's features: one mask per text
    groups = torch.tensor(np.where(FREE[row], np.cumsum(FREE[row]), 0))[None]
    found = ShapleyValues(predict).attribute(
      ids[row : row + 1],
      masked[row : row + 1],
      target=int(TARGETS[row]),
      additional_forward_args=(real[row : row + 1],),
      feature_mask=groups,
    )
    one = slice(row, row + 1)
    ours = methods.kernel_shap(task(), IDS[one], REAL[one], TARGETS[one])
    assert rel(ours, found.detach().numpy() * FREE[one]) < 1e-4
