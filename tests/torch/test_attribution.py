"""Post-hoc attributions against Captum, and against plain PyTorch where Captum lacks them.

The networks are written twice, here in PyTorch with the weights of those in Flax. What differs is
the order of float32 sums, so maps agree to 1e-5 of their norm, or to 1e-4 where differences of
outputs, which cancel, are what a method works with.
"""

import functools
import itertools

from flax import linen as nn
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from torch.nn import functional as T  # noqa: E402

import bcos_jax  # noqa: E402
from bcos_jax import StandardOps, attribution  # noqa: E402
from bcos_jax.attribution.gradients import draw_noise  # noqa: E402
from bcos_jax.attribution.perturbation import draw_grids  # noqa: E402
from bcos_jax.attribution.surrogates import draw_parts  # noqa: E402

from ..common import CLASSES, SIDE, filled, photos, rel, tiny  # noqa: E402

pytestmark = pytest.mark.torch

IMAGES = photos(2)
TARGETS = np.array([3, 1])
PATCH = 4  # side of the ViT's patches, so four rows of four


class Small(nn.Module):
  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    ops = self.ops
    x = ops.act(ops.batch_norm(name="norm")(ops.conv(8, 3, name="conv1")(x)), "relu")
    x = ops.spatial_pool(x, 2, 2, 0)
    x = ops.act(ops.conv(8, 3, 2, use_bias=True, name="conv2")(x), "relu")
    return ops.readout(ops.classifier(CLASSES, name="head"), x)


class TorchSmall(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    self.norm = torch.nn.BatchNorm2d(8)
    self.relu1, self.relu2 = torch.nn.ReLU(), torch.nn.ReLU()
    self.pool = torch.nn.MaxPool2d(2)
    self.conv2 = torch.nn.Conv2d(8, 8, 3, 2, padding=1)
    self.head = torch.nn.Linear(8, CLASSES)

  def forward(self, x):
    # Times one: of two neighbouring layers, Captum 0.9 hands the first the plain gradient of the
    # second, as both of its hooks are on the same tensor and run in the wrong order.
    x = self.pool(1 * self.relu1(self.norm(self.conv1(x))))
    return self.head(self.relu2(self.conv2(x)).mean((2, 3)))


def copy(module, parameters, statistics=None):
  """Copies what Flax calls kernel, scale, bias, mean and var into a PyTorch module."""
  names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
  with torch.no_grad():
    for name, value in {**parameters, **(statistics or {})}.items():
      axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
      getattr(module, names.get(name, name)).copy_(torch.tensor(np.array(value).transpose(axes)))


@functools.cache
def convolutional():
  model = Small(StandardOps())
  shapes = jax.eval_shape(model.init, jax.random.key(0), model.ops.encoding(IMAGES))
  random = np.random.RandomState(0)
  variables = jax.tree.map(lambda leaf: random.randn(*leaf.shape).astype("f"), shapes)
  variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
  network = TorchSmall().eval()
  for name, parameters in variables["params"].items():
    copy(getattr(network, name), parameters, variables["batch_stats"].get(name))
  return model, variables, network


class TorchAttention(torch.nn.Module):
  """Attention written out; `rule` chooses how relevance passes."""

  heads = 2

  def __init__(self, width):
    super().__init__()
    for name in ("query", "key", "value", "out"):
      setattr(self, name, torch.nn.Linear(width, width))
    self.rule, self.weights = None, None

  def forward(self, x):
    n, t, width = x.shape

    def heads(name):
      return getattr(self, name)(x).reshape(n, t, self.heads, -1).transpose(1, 2)

    q, k, v = heads("query"), heads("key"), heads("value")
    half = Halved.apply if self.rule == "attn_lrp" else lambda y: y
    logits = half(q @ k.transpose(2, 3)) * (width // self.heads) ** -0.5
    self.weights = torch.softmax(logits, -1)
    if self.weights.requires_grad:
      self.weights.retain_grad()
    y = half(self.weights @ v).transpose(1, 2).reshape(n, t, width)
    return self.out(y)


class Halved(torch.autograd.Function):
  """The result of a product of two variables: each one gets half of its relevance."""

  @staticmethod
  def forward(ctx, x):
    return x.clone()

  @staticmethod
  def backward(ctx, gradient):
    return gradient / 2


class Norm(torch.nn.LayerNorm):
  """A layer norm whose divisor may be a constant."""

  rule = None

  def forward(self, x):
    if self.rule is None:
      return super().forward(x)
    divisor = torch.sqrt(x.var(-1, keepdim=True, correction=0) + self.eps).detach()
    return (x - x.mean(-1, keepdim=True)) / divisor * self.weight + self.bias


class Gelu(torch.nn.Module):
  """A GELU that may pass relevance on unchanged; Captum knows the one inside."""

  def __init__(self):
    super().__init__()
    self.gelu, self.rule = torch.nn.GELU(), None

  def forward(self, x):
    y = self.gelu(x)
    return y if self.rule is None else x * (y / x).detach()


class TorchBlock(torch.nn.Module):
  def __init__(self, width, hidden):
    super().__init__()
    self.norm1, self.norm2 = Norm(width, eps=1e-6), Norm(width, eps=1e-6)
    self.attn = TorchAttention(width)
    self.linear1 = torch.nn.Linear(width, hidden)
    self.gelu = Gelu()
    self.linear2 = torch.nn.Linear(hidden, width)

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.linear2(self.gelu(self.linear1(self.norm2(x))))


class TorchViT(torch.nn.Module):
  def __init__(self, width, hidden, depth):
    super().__init__()
    self.embed = torch.nn.Conv2d(3, width, PATCH, PATCH)
    self.cls = torch.nn.Parameter(torch.zeros(1, width))
    self.position = torch.nn.Parameter(torch.zeros(17, width))
    self.blocks = torch.nn.ModuleList(TorchBlock(width, hidden) for _ in range(depth))
    self.norm = Norm(width, eps=1e-6)
    self.head = torch.nn.Linear(width, CLASSES)

  def read(self, x):
    return self.head(self.norm(x)[:, 0])

  def forward(self, x, depth=None):
    x = self.embed(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1) + self.position
    for block in self.blocks[:depth]:
      x = block(x)
    return self.read(x)


@functools.cache
def transformer():
  model = tiny("vit_test", StandardOps(), depth=3)
  variables = filled(model)
  params, width = variables["params"], model.width
  network = TorchViT(width, model.mlp_dim, model.depth).eval()
  network.blocks.apply(lambda m: setattr(m, "heads", model.num_heads))
  embeddings = params["embeddings"]
  kernel = embeddings["patch_embedding"]["kernel"].reshape(PATCH, PATCH, 3, width)
  copy(network.embed, {**embeddings["patch_embedding"], "kernel": kernel})
  with torch.no_grad():
    network.cls.copy_(torch.tensor(embeddings["cls_token"]))
    network.position.copy_(torch.tensor(embeddings["position"]))
  for i, block in enumerate(network.blocks):
    own = params[f"encoder_{i}"]
    for name in ("query", "key", "value", "out"):
      copy(getattr(block.attn, name), own["attn"][name])
    for name in ("norm1", "norm2"):
      copy(getattr(block, name), own[name])
    for name in ("linear1", "linear2"):
      copy(getattr(block, name), own["mlp"][name])
  copy(network.norm, params["norm"])
  copy(network.head, params["head"])
  return model, variables, network


NETWORKS = {"cnn": convolutional, "vit": transformer}
both = pytest.mark.parametrize("kind", NETWORKS)


def inputs(model):
  """Returns the encoded images as PyTorch takes them."""
  return torch.tensor(np.asarray(model.ops.encoding(IMAGES)).transpose(0, 3, 1, 2).copy())


def ask(name, kind, **settings):
  model, variables, _ = NETWORKS[kind]()
  return attribution.METHODS[name](model, variables, IMAGES, TARGETS, **settings)


def captum(name, kind, *arguments, **settings):
  """Returns Captum's attributions, [N, C, H, W]."""
  from captum import attr

  model, _, network = NETWORKS[kind]()
  method = getattr(attr, name)(network, *arguments)
  x = inputs(model).requires_grad_()
  return method.attribute(x, target=torch.tensor(TARGETS), **settings).detach().numpy()


@both
def test_networks_agree(kind):
  model, variables, network = NETWORKS[kind]()
  with torch.no_grad():
    expected = network(inputs(model)).numpy()
  assert rel(model.apply(variables, model.ops.encoding(IMAGES)), expected) < 1e-5


@both
def test_gradients(kind):
  expected = captum("Saliency", kind, abs=False)
  assert rel(ask("saliency", kind, signed=True), expected.sum(1)) < 1e-5
  assert rel(ask("saliency", kind), np.abs(expected).max(1)) < 1e-5
  assert rel(ask("input_x_gradient", kind), captum("InputXGradient", kind).sum(1)) < 1e-5


@both
def test_integrated_gradients(kind):
  expected = captum("IntegratedGradients", kind, baselines=0.2, n_steps=12).sum(1)
  assert rel(ask("integrated_gradients", kind, baseline=0.2, steps=12), expected) < 1e-5


@both
def test_smooth_grad(kind):
  model, _, network = NETWORKS[kind]()
  x, gradients = inputs(model), 0
  spread = x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)
  for sample in range(4):
    drawn = [draw_noise(7, row, sample, (SIDE, SIDE, 3)) for row in range(len(x))]
    noisy = x + 0.2 * spread * torch.tensor(np.moveaxis(np.stack(drawn), 3, 1).copy())
    noisy.requires_grad_()
    network(noisy)[range(len(x)), TARGETS].sum().backward()
    gradients = gradients + noisy.grad / 4
  found = ask("smooth_grad", kind, samples=4, noise=0.2, seed=7)
  assert rel(found, gradients.abs().amax(1)) < 1e-5


def test_guided_backprop():
  assert rel(ask("guided_backprop", "cnn"), captum("GuidedBackprop", "cnn").sum(1)) < 1e-5


@both
def test_deep_lift(kind, monkeypatch):
  from captum.attr._core import deep_lift

  # Captum has the rule, and does not apply it to GELUs.
  monkeypatch.setitem(deep_lift.SUPPORTED_NON_LINEAR, torch.nn.GELU, deep_lift.nonlinear)
  # Not a constant: its maxima would tie, and which place of a tie counts is nobody's rule.
  baseline = np.random.RandomState(5).randn(SIDE, SIDE, 3).astype("f")
  reference = torch.tensor(np.moveaxis(baseline, 2, 0)[None].copy())
  expected = captum("DeepLift", kind, baselines=reference.expand(2, -1, -1, -1)).sum(1)
  # Slopes are quotients of small differences.
  assert rel(ask("deep_lift", kind, baseline=baseline), expected) < 1e-4
  assert rel(ask("input_x_gradient", kind), expected) > 0.1


def test_grad_cam_of_a_convolutional_network():
  from captum import attr

  model, _, network = convolutional()
  method = attr.LayerGradCam(network, network.conv2)
  for relu in (True, False):
    maps = method.attribute(inputs(model), torch.tensor(TARGETS), relu_attributions=relu)
    for mode in ("nearest", "bilinear"):
      expected = T.interpolate(maps, (SIDE, SIDE), mode=mode)[:, 0].detach()
      found = ask("grad_cam", "cnn", layer="conv2", relu=relu, resize=mode)
      assert rel(found, expected) < 1e-5


def test_grad_cam_of_a_transformer():
  model, _, network = transformer()
  seen = {}
  hook = network.blocks[-1].norm1.register_forward_hook(
    lambda module, given, result: (result.retain_grad(), seen.update(result=result))[0]
  )
  network(inputs(model))[range(2), TARGETS].sum().backward()
  hook.remove()
  tokens, gradient = seen["result"][:, 1:], seen["result"].grad[:, 1:]
  maps = torch.relu((tokens * gradient.mean(1, keepdim=True)).sum(-1))
  assert maps.count_nonzero()
  assert rel(ask("grad_cam", "vit"), upsampled(maps, "nearest")) < 1e-5


def upsampled(maps, mode="bilinear"):
  maps = T.interpolate(maps.reshape(-1, 1, 4, 4), (SIDE, SIDE), mode=mode)
  return maps[:, 0].detach().numpy()


@both
def test_occlusion(kind):
  from captum import attr

  model, _, network = NETWORKS[kind]()
  for window, stride in ((6, 4), (5, 5)):
    expected = attr.Occlusion(network).attribute(
      inputs(model),
      (3, window, window),
      (3, stride, stride),
      baselines=0.1,
      target=torch.tensor(TARGETS),
    )
    # Captum gives each channel of a pixel the whole drop.
    found = ask("occlusion", kind, window=window, stride=stride, baseline=0.1)
    assert rel(found, expected[:, 0]) < 1e-4


@both
def test_rise(kind):
  model, _, network = NETWORKS[kind]()
  side, count, keep, grid = (SIDE, SIDE), 12, 0.4, 3
  grids = torch.tensor(draw_grids(side, count, grid, keep, seed=3)[0])
  # The places of the masks follow the grids in the same stream of random numbers.
  random = np.random.RandomState(3)
  random.random_sample(grids.shape)
  cell = -(-SIDE // grid)
  tops, lefts = random.randint(0, cell, count), random.randint(0, cell, count)
  large = T.interpolate(grids[:, None], ((grid + 1) * cell,) * 2, mode="bilinear")
  masks = torch.stack(
    [m[:, t : t + SIDE, x : x + SIDE] for m, t, x in zip(large, tops, lefts, strict=True)]
  )
  with torch.no_grad():
    seen = torch.stack(
      [torch.sigmoid(network(inputs(model) * m))[range(2), TARGETS] for m in masks]
    )
  expected = torch.einsum("mn,mhw->nhw", seen, masks[:, 0]) / (count * keep)
  assert rel(ask("rise", kind, masks=count, grid=grid, keep=keep, seed=3), expected) < 1e-5


def parts_of(size):
  rows = np.arange(SIDE) // size
  return rows[:, None] * (rows[-1] + 1) + rows


@both
def test_kernel_shap(kind):
  segments = parts_of(8)
  expected = captum("ShapleyValues", kind, feature_mask=torch.tensor(segments)[None, None])
  found = ask("kernel_shap", kind, segments=segments, samples=14) * 64
  assert rel(found, expected[:, 0]) < 1e-4


@both
def test_lime(kind):
  from captum import attr
  from captum._utils.models.linear_model import SkLearnLinearModel

  model, _, network = NETWORKS[kind]()
  segments = parts_of(4)
  present = torch.tensor(draw_parts(16, 40, seed=9)).float()
  drawn = itertools.cycle(present)

  def weight(original, perturbed, sample, **_):
    distance = 1 - T.cosine_similarity(sample[0], torch.ones(16), dim=0)
    return torch.exp(-(distance**2) / 0.25**2) ** 0.5

  class Ridge(SkLearnLinearModel):
    def __init__(self):
      super().__init__(sklearn_module="linear_model.Ridge", alpha=1.0)

  method = attr.LimeBase(
    lambda x: torch.softmax(network(x), -1),
    Ridge(),
    similarity_func=weight,
    perturb_func=lambda original, **_: next(drawn)[None],
    perturb_interpretable_space=True,
    from_interp_rep_transform=lambda sample, x, **_: x * sample[0][torch.tensor(segments)],
    to_interp_rep_transform=None,
  )
  found = ask("lime", kind, segments=4, samples=40, seed=9)
  for row in range(2):
    x = inputs(model)[row : row + 1]
    expected = method.attribute(x, target=int(TARGETS[row]), n_samples=40)[0].numpy()
    assert rel(found[row], expected[segments]) < 1e-4


def attention_of(depth=None):
  """Returns weights and gradients of each attention, each [N, heads, T, T]."""
  model, _, network = transformer()
  network.zero_grad()
  network(inputs(model), depth)[range(2), TARGETS].sum().backward()
  blocks = network.blocks[:depth]
  return [(b.attn.weights.detach(), b.attn.weights.grad) for b in blocks]


def test_attention_rollout():
  rolled = torch.eye(17)
  for weights, _ in attention_of():
    step = 0.5 * weights.mean(1) + 0.5 * torch.eye(17)
    rolled = (step / step.sum(-1, keepdim=True)) @ rolled
  assert rel(ask("attention_rollout", "vit"), upsampled(rolled[:, 0, 1:])) < 1e-5


def test_chefer():
  relevance = torch.eye(17)
  for weights, gradient in attention_of():
    relevance = relevance + (weights * gradient).clamp(min=0).mean(1) @ relevance
  assert rel(ask("chefer", "vit"), upsampled(relevance[:, 0, 1:])) < 1e-5


def test_legrad():
  maps = 0
  for depth in (1, 2, 3):
    _, gradient = attention_of(depth)[-1]
    maps = maps + gradient.clamp(min=0).mean((1, 2))[:, 1:] / 3
  expected = upsampled(maps)
  assert rel(ask("legrad", "vit", normalize=False), expected) < 1e-5
  low, high = (f(expected, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
  assert rel(ask("legrad", "vit"), (expected - low) / (high - low)) < 1e-4


@pytest.mark.parametrize("rule", ["attn_lrp", "cp_lrp"])
def test_attn_lrp(rule):
  model, _, network = transformer()
  x = inputs(model).requires_grad_()
  hooks = []
  network.apply(lambda m: setattr(m, "rule", rule))
  if rule == "cp_lrp":
    for block in network.blocks:
      for name in ("query", "key"):
        layer = getattr(block.attn, name)
        hooks.append(layer.register_forward_hook(lambda module, given, result: result.detach()))
  try:
    network(x)[range(2), TARGETS].sum().backward()
  finally:
    network.apply(lambda m: setattr(m, "rule", None))
    for hook in hooks:
      hook.remove()
  expected = (x * x.grad).sum(1).detach()
  assert rel(ask("attn_lrp", "vit", rule=rule), expected) < 1e-5
  assert rel(ask("input_x_gradient", "vit"), expected) > 0.1
