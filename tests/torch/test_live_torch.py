"""The same networks in live PyTorch: outputs, gradients, training steps, and files both ways."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import BcosOps, StandardOps, convert, layers  # noqa: E402
from benchmarks import torch_networks as oracles  # noqa: E402

from ..common import applied, flat, photos, rel, unflat  # noqa: E402

pytestmark = pytest.mark.torch
SIDE, CLASSES = 32, 5
IMAGES = photos(4, side=SIDE)
LABELS = np.array([0, 3, 1, 4])
TINY = {"width": 8, "stages": (1, 1), "classes": CLASSES}


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)


def _numpy(module) -> dict[str, np.ndarray]:
  return {key: tensor.detach().numpy().copy() for key, tensor in module.state_dict().items()}


def _randomised(module, seed=0, scale=1.0):
  """Gives every parameter and statistic a value that is far from trivial."""
  generator = torch.Generator().manual_seed(seed)

  def random(tensor):
    return torch.randn(tensor.shape, generator=generator)

  with torch.no_grad():
    for key, tensor in module.state_dict().items():
      if key.endswith("running_var"):
        tensor.copy_(scale * (1 + 0.5 * random(tensor).abs()))
      elif key.endswith("running_mean"):
        tensor.copy_(0.1 * random(tensor))
      elif tensor.ndim == 1:
        tensor.copy_(0.1 * random(tensor) + key.endswith("weight"))
      elif tensor.ndim > 1:
        tensor.copy_(random(tensor) * math.sqrt(2 / tensor[0].numel()))
  return module


def _nchw(images):
  return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _seen(model, images=IMAGES):
  """What the network sees, in PyTorch's layout."""
  return _nchw(np.asarray(model.ops.encoding(images)))


def _vit(**fields):
  return oracles.SimpleViT(
    oracles.CONVENTIONAL,
    **{"width": 32, "depth": 2, "heads": 2, "hidden": 64, "classes": CLASSES, **fields},
  )


NETWORKS = {
  "resnet_tiny": lambda: oracles.ResNet(oracles.CONVENTIONAL, **TINY),
  "resnet_tiny_bottleneck": lambda: oracles.ResNet(oracles.CONVENTIONAL, bottleneck=True, **TINY),
  "resnet18": lambda: oracles.ResNet(oracles.CONVENTIONAL),
  "simple_vit_tiny": lambda: _vit(patch=8),
  "vitc_tiny": lambda: _vit(patch=1, stem=(8, 16, 16, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_conventional_networks_and_their_b_1_twins(name):
  network = _randomised(NETWORKS[name]()).eval()
  state = _numpy(network)
  bundle = convert.from_state_dict(state, name)
  assert bundle.model.num_classes == (1000 if name == "resnet18" else CLASSES)
  with torch.no_grad():
    expected = network(_seen(bundle.model)).numpy()
  assert np.std(expected, axis=0).min() > 1e-3
  assert rel(applied(bundle.model)(bundle.variables, IMAGES), expected) <= 1e-5
  model, variables = bcos_jax.bcosify(bundle.model, bundle.variables, ops=BcosOps.equivalent())
  assert rel(applied(model)(variables, IMAGES), expected) <= 1e-5
  # And back: PyTorch accepts every key, and computes the same.
  restored = NETWORKS[name]().eval()
  restored.load_state_dict(
    {
      key: torch.from_numpy(np.array(tensor))
      for key, tensor in convert.to_state_dict(bundle).items()
    },
    strict=True,
  )
  assert all(
    torch.equal(a, b)
    for a, b in zip(restored.state_dict().values(), network.state_dict().values(), strict=True)
  )


BCOS = {
  "bcos_v2": (BcosOps.v2(), oracles.BCOS_V2),
  "bcosification": (BcosOps(), oracles.BCOSIFIED),
}


def _bcos(source, prefix={"bcos_v2": "", "bcosification": "model."}):  # noqa: B006
  """A B-cos network in both frameworks, with the same weights."""
  _, family = BCOS[source]
  network = _randomised(oracles.ResNet(family, **TINY), scale=0.02)
  state = {prefix[source] + key: tensor for key, tensor in _numpy(network).items()}
  return network, convert.from_state_dict(state, "resnet_tiny", source)


@pytest.mark.parametrize("source", BCOS)
def test_explanations_of_bcos_networks(source):
  network, bundle = _bcos(source)
  network = oracles.explaining(network.eval())
  ex = bcos_jax.explain(bundle.model, bundle.variables, IMAGES, target=LABELS)
  x = _seen(bundle.model).requires_grad_()
  logits = network(x)
  value = logits[torch.arange(len(x)), torch.from_numpy(LABELS)]
  (gradient,) = torch.autograd.grad(value.sum(), x)
  bias = math.log(CLASSES - 1)
  assert rel(ex.logits + bias, logits.detach().numpy() + bias) <= 1e-5
  assert rel(ex.weights.transpose(0, 3, 1, 2), gradient.numpy()) <= 1e-5
  assert rel(ex.contributions, (x * gradient).sum(1).detach().numpy()) <= 1e-5


def _train_torch(network, x, steps, lr):
  """Plain SGD on a binary cross-entropy; returns the losses."""
  network.train()
  targets = torch.nn.functional.one_hot(torch.from_numpy(LABELS), CLASSES).float()
  optimizer = torch.optim.SGD(network.parameters(), lr=lr)
  losses = []
  for step in range(steps):
    optimizer.zero_grad()
    logits = network(x * (1 + 0.2 * step))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
  return losses


def _train_jax(model, variables, steps, lr):
  """The same steps; returns losses, variables, and the first step's gradients."""
  x, targets = model.ops.encoding(IMAGES), jax.nn.one_hot(LABELS, CLASSES)

  @jax.jit
  def gradients(params, stats, x):
    def loss(params):
      logits, updates = model.apply(
        {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
      )
      return jnp.mean(jax.nn.softplus(logits) - targets * logits), updates["batch_stats"]

    return jax.value_and_grad(loss, has_aux=True)(params)

  params, stats, losses, first = variables["params"], variables["batch_stats"], [], None
  for step in range(steps):
    (loss, stats), grads = gradients(params, stats, x * (1 + 0.2 * step))
    first = grads if first is None else first
    params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
    losses.append(float(loss))
  return losses, {"params": params, "batch_stats": stats}, first


@pytest.mark.parametrize("source", ["torchvision", *BCOS])
def test_training_continues_alike(source):
  """Losses, gradients, weights and running statistics of several steps."""
  if source == "torchvision":
    network = _randomised(oracles.ResNet(oracles.CONVENTIONAL, **TINY))
    bundle = convert.from_state_dict(_numpy(network), "resnet_tiny", source)
  else:
    network, bundle = _bcos(source)
  x, prefix = _seen(bundle.model), "model." if source == "bcosification" else ""
  losses, variables, first = _train_jax(bundle.model, bundle.variables, steps=4, lr=0.05)

  start = _numpy(network)
  _train_torch(network, x, steps=1, lr=0.05)
  gradients = {
    key: (start[key] - tensor) / 0.05
    for key, tensor in _numpy(network).items()
    if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
  }
  network.load_state_dict({key: torch.from_numpy(np.array(t)) for key, t in start.items()})
  expected_losses = _train_torch(network, x, steps=4, lr=0.05)
  assert rel(losses, expected_losses) <= 1e-5

  def exported(leaves):
    return convert.to_state_dict(
      bcos_jax.io.bundles.make_bundle(bundle.model, leaves, provenance={"source": source})
    )

  ours = exported(variables)
  for key, tensor in _numpy(network).items():
    if key.endswith("num_batches_tracked") or (
      source != "torchvision" and key.endswith("running_mean")
    ):
      continue  # kept by nothing in Flax
    assert rel(ours[prefix + key], tensor) <= 1e-4, key
  ours = exported({**bundle.variables, "params": first})
  for key, tensor in gradients.items():
    # The difference of two float32 weights, divided by the rate, keeps four digits or so.
    assert rel(ours[prefix + key], tensor) <= 2e-3, key


@pytest.mark.parametrize("b", [1.5, 2.0, 2.5])
@pytest.mark.parametrize("weights", ["unit", "plain"])
def test_gradients_of_convolutions(b, weights):
  """Against autograd: input and weight, in training and explanation mode."""
  network = _randomised(oracles.BcosConv2d(6, 8, 3, 2, 1, b=b, unit_norm=weights == "unit"))
  kernel = network.linear.weight.detach().numpy().transpose(2, 3, 1, 0)
  x = np.concatenate([IMAGES, 1 - IMAGES], -1)[:, :12, :12]
  weight = np.random.RandomState(0).standard_normal((4, 6, 6, 8)).astype(np.float32)
  for explaining in (False, True):
    network.explaining = explaining
    seen = _nchw(x).requires_grad_()
    y = network(seen)
    d_x, d_w = torch.autograd.grad((y * _nchw(weight)).sum(), (seen, network.linear.weight))
    layer = layers.BcosConv(
      8, (3, 3), strides=2, padding=1, b=b, weights=weights, detach=explaining
    )
    ours, pullback = jax.vjp(
      lambda x, k, layer=layer: layer.apply({"params": {"kernel": k}}, x), x, kernel
    )
    assert rel(ours, y.detach().numpy().transpose(0, 2, 3, 1)) <= 1e-5
    our_x, our_w = pullback(weight)
    assert rel(our_x, d_x.numpy().transpose(0, 2, 3, 1)) <= 1e-5
    assert rel(our_w, d_w.numpy().transpose(2, 3, 1, 0)) <= 1e-5


def test_gradients_of_dense_maps():
  network = _randomised(oracles.BcosLinear(7, 5))
  x = np.random.RandomState(0).standard_normal((3, 4, 7)).astype(np.float32)
  weight = np.random.RandomState(1).standard_normal((3, 4, 5)).astype(np.float32)
  for explaining in (False, True):
    network.explaining = explaining
    seen = torch.from_numpy(x).requires_grad_()
    y = network(seen)
    d_x, d_w = torch.autograd.grad(
      (y * torch.from_numpy(weight)).sum(), (seen, network.linear.weight)
    )
    layer = layers.BcosDense(5, detach=explaining)
    ours, pullback = jax.vjp(
      lambda x, k, layer=layer: layer.apply({"params": {"kernel": k}}, x),
      x,
      network.linear.weight.detach().numpy().T,
    )
    our_x, our_w = pullback(weight)
    assert rel(ours, y.detach().numpy()) <= 1e-5
    assert rel(our_x, d_x.numpy()) <= 1e-5 and rel(our_w, d_w.numpy().T) <= 1e-5


@pytest.mark.parametrize(
  "shape, make, ours",
  [
    pytest.param((4, 6, 5, 5), lambda: torch.nn.BatchNorm2d(6), layers.BatchNorm(), id="batch"),
    pytest.param(
      (4, 6, 5, 5),
      lambda: torch.nn.BatchNorm2d(6, momentum=None),
      layers.BatchNorm(momentum=None),
      id="batch-cumulative",
    ),
    pytest.param(
      (4, 6, 5, 5),
      lambda: torch.nn.BatchNorm2d(6, momentum=0.3),
      layers.BatchNorm(momentum=0.7),
      id="batch-momentum",
    ),
    pytest.param(
      (4, 6, 5, 5), lambda: torch.nn.GroupNorm(3, 6), layers.GroupNorm(num_groups=3), id="group"
    ),
    pytest.param(
      (4, 6, 5, 5), lambda: torch.nn.GroupNorm(1, 6), layers.GroupNorm(num_groups=1), id="one-group"
    ),
    pytest.param(
      (4, 6, 5, 5),
      lambda: torch.nn.GroupNorm(6, 6),
      layers.GroupNorm(num_groups=None),
      id="instance",
    ),
    pytest.param((4, 9, 6), lambda: torch.nn.LayerNorm(6), layers.LayerNorm(), id="layer"),
  ],
)
def test_norms_and_their_gradients(shape, make, ours):
  network = _randomised(make())
  x = np.random.RandomState(0).standard_normal(shape).astype(np.float32) + 2
  weight = np.random.RandomState(1).standard_normal(shape).astype(np.float32)
  last = (lambda a: a.transpose(0, 2, 3, 1)) if len(shape) == 4 else (lambda a: a)
  params = {"scale": network.weight.detach().numpy(), "bias": network.bias.detach().numpy()}
  stats = {}
  if isinstance(ours, layers.BatchNorm):
    network.reset_running_stats()
    stats = ours.init(jax.random.key(0), last(x))["batch_stats"]
  for step in range(3):  # a resumed network continues alike
    seen = torch.from_numpy(x * (1 + step)).requires_grad_()
    y = network(seen)
    (d_x,) = torch.autograd.grad((y * torch.from_numpy(weight)).sum(), seen)

    def apply(x, stats=stats):
      y, updates = ours.apply(
        {"params": params, "batch_stats": stats},
        x,
        train=True,
        mutable=["batch_stats"],
      )
      return y, updates

    result, pullback, updates = jax.vjp(apply, last(x * (1 + step)), has_aux=True)
    stats = updates.get("batch_stats", {})
    assert rel(result, last(y.detach().numpy())) <= 1e-5
    assert rel(pullback(last(weight))[0], last(d_x.numpy())) <= 2e-5
  if stats:
    assert rel(stats["mean"], network.running_mean.numpy()) <= 1e-5
    assert rel(stats["var"], network.running_var.numpy()) <= 1e-5


def test_padding_modes_are_pytorchs():
  x = np.random.RandomState(0).standard_normal((2, 7, 6, 4)).astype(np.float32)
  for mode in ("zeros", "reflect", "replicate", "circular"):
    network = torch.nn.Conv2d(4, 6, 3, 2, 2, dilation=2, groups=2, padding_mode=mode)
    layer = layers.BcosConv(
      6,
      (3, 3),
      strides=2,
      padding=2,
      kernel_dilation=2,
      feature_group_count=2,
      padding_mode=mode,
      b=1,
      use_bias=True,
    )
    params = {
      "kernel": network.weight.detach().numpy().transpose(2, 3, 1, 0),
      "bias": network.bias.detach().numpy(),
    }
    expected = network(_nchw(x)).detach().numpy().transpose(0, 2, 3, 1)
    assert rel(layer.apply({"params": params}, x), expected) <= 1e-5


def test_pools_and_gates_are_pytorchs():
  x = np.random.RandomState(0).standard_normal((2, 7, 8, 3)).astype(np.float32)

  def last(tensor):
    return tensor.numpy().transpose(0, 2, 3, 1)

  assert rel(layers.avg_pool(x), last(torch.nn.AvgPool2d(3, 2, 1)(_nchw(x)))) <= 1e-6
  assert rel(layers.max_pool(x), last(torch.nn.MaxPool2d(3, 2, 1)(_nchw(x)))) <= 1e-6
  gates = {
    "relu": torch.nn.ReLU(),
    "gelu": torch.nn.GELU(),
    "silu": torch.nn.SiLU(),
    "gelu_tanh": torch.nn.GELU(approximate="tanh"),
  }
  for kind, gate in gates.items():
    assert rel(StandardOps().act(jnp.asarray(x), kind), gate(torch.from_numpy(x)).numpy()) <= 1e-6


def test_torch_tensors_are_accepted_as_they_are():
  """A state dict can be given directly."""
  network = _randomised(NETWORKS["resnet_tiny"]())
  given = convert.from_state_dict(network.state_dict(), "resnet_tiny")
  expected = convert.from_state_dict(_numpy(network), "resnet_tiny")
  for path, leaf in flat(given.variables).items():
    assert np.array_equal(leaf, flat(expected.variables)[path])
  # What was given belongs to PyTorch: training it must not change the network.
  kept = unflat({path: np.array(leaf) for path, leaf in flat(given.variables).items()})
  with torch.no_grad():
    for tensor in network.state_dict().values():
      tensor.zero_()
  assert jax.tree.all(jax.tree.map(np.array_equal, kept, given.variables))
