"""Networks that nobody here wrote: explained completely, proven, B-cosified, one fine-tuned.

  pip install "bcos_jax[frameworks]" equimo                 # the libraries
  python benchmarks/foreign.py                              # the table
  python benchmarks/foreign.py --only keras                 # lines of it
  bcos-jax prepare fashion_mnist --source=FILE_OR_DIR       # once, for what follows
  python benchmarks/foreign.py --train --figure=foreign.png

Weights are random, and biases and statistics are moved off zero. Of each network the table says the
certificate, how far `jax.linear_transpose` is from the gradient, what of an explanation is not
accounted for, and how far B=1 with everything kept, its input [z, -z], is from the network.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import os
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bcos_jax
from bcos_jax import BcosOps, Encoding, Preprocess, program
from bcos_jax.train.data import open_dataset, pipeline

GREY = Encoding((0.286,), (0.353,))


class Tutorial(nnx.Module):
  """The network of Flax's MNIST tutorial: two convolutions, batch norms, dropout, two maps."""

  def __init__(self, rngs: nnx.Rngs):
    self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
    self.norm1 = nnx.BatchNorm(32, rngs=rngs)
    self.dropout1 = nnx.Dropout(0.025, rngs=rngs)
    self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
    self.norm2 = nnx.BatchNorm(64, rngs=rngs)
    self.linear1 = nnx.Linear(3136, 256, rngs=rngs)
    self.dropout2 = nnx.Dropout(0.025, rngs=rngs)
    self.linear2 = nnx.Linear(256, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.avg_pool(nnx.relu(self.norm1(self.dropout1(self.conv1(x)))), (2, 2), (2, 2))
    x = nnx.avg_pool(nnx.relu(self.norm2(self.conv2(x))), (2, 2), (2, 2))
    x = nnx.relu(self.dropout2(self.linear1(x.reshape(len(x), -1))))
    return self.linear2(x)


@program.factory
def tutorial(seed: int = 0) -> Tutorial:
  """Returns the network of the tutorial."""
  return Tutorial(nnx.Rngs(seed))


Made = tuple[Any, Any, dict[str, Any], tuple[int, ...]]
"""Network, variables (None where they are inside), arguments of its call, shape of its input."""


def flax_tutorial() -> Made:
  return tutorial(), None, {}, (28, 28, 1)


def haiku_resnet() -> Made:
  import haiku as hk

  network = hk.transform_with_state(lambda x, is_training: hk.nets.ResNet18(10)(x, is_training))
  shape = (32, 32, 3)
  variables = network.init(jax.random.key(0), jnp.ones((1, *shape)), True)
  return network, variables, {"is_training": False}, shape


def keras_network(name: str) -> Callable[[], Made]:
  def make() -> Made:
    import keras

    shape = (32, 32, 3)
    fields = {"weights": None, "classes": 10, "classifier_activation": None}
    return getattr(keras.applications, name)(input_shape=shape, **fields), None, {}, shape

  return make


def equimo_network(name: str) -> Callable[[], Made]:
  def make() -> Made:
    from equimo import models

    key, shape = jax.random.key(0), (3, 32, 32)
    if name == "ConvNeXt":
      network = models.ConvNeXt(
        3, depths=[1, 1, 2, 1], dims=[16, 32, 64, 128], num_classes=10, key=key
      )
    else:
      network = models.VisionTransformer(32, 3, 48, 8, 3, [3], num_classes=10, key=key)
    return network, None, {}, shape

  return make


NETWORKS = {
  "flax: CNN of the MNIST tutorial (NNX)": flax_tutorial,
  "equinox: equimo ConvNeXt": equimo_network("ConvNeXt"),
  "equinox: equimo VisionTransformer": equimo_network("VisionTransformer"),
  "haiku: nets.ResNet18": haiku_resnet,
  "keras: applications.ResNet50": keras_network("ResNet50"),
  "keras: applications.MobileNetV3Small": keras_network("MobileNetV3Small"),
  "keras: applications.ConvNeXtTiny": keras_network("ConvNeXtTiny"),
  "keras: applications.DenseNet121": keras_network("DenseNet121"),
}


def moved(variables: Any) -> Any:
  """Returns variables off their start: biases, scales, statistics, and kernels of zeros."""
  rng = np.random.default_rng(0)

  def leaf(value: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
      return value
    still = jnp.ndim(value) > 1 and bool(jnp.any(value))
    return value if still else value + 0.05 * rng.random(value.shape)

  return jax.tree.map(leaf, variables)


def measure(make: Callable[[], Made]) -> str:
  """Returns a line of the table."""
  network, variables, options, shape = make()
  function, variables = program.function_of(network, variables, **options)
  variables = moved(variables)
  inputs = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
  begin = time.perf_counter()
  traced = program.trace(function, variables, inputs)
  seconds = time.perf_counter() - begin
  certificate = traced.check(variables, inputs)
  ex = traced.explain(variables, inputs, 1)
  same = traced.bcosify(1.0, biases="keep", pairing="negated")
  both = jax.jit(lambda own, kept, x: (function(own, x), same(kept, x)))
  expected, found = both(variables, same.variables, inputs)
  change = np.abs(found - expected).max() / np.abs(expected).max()
  made = traced.bcosify(pool="average", pairing="negated")
  bcos = bcos_jax.explain(made, made.variables, inputs, 1)
  maps = sum(d.part == "map" for d in made.decisions)
  cells = (
    *(certificate.equations, f"{maps}", f"{certificate.transposed:.0e}"),
    *(
      f"{ex.completeness_error.max():.0e}",
      f"{change:.0e}",
      f"{bcos.completeness_error.max():.0e}",
    ),
    f"{seconds:.1f} s",
  )
  return " | ".join(map(str, cells))


def pictures(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns pictures [N, 28, 28, 1] in [0, 1] and labels of a split of Fashion-MNIST."""
  prepare = Preprocess(size=(28, 28), resize=28, colors=1)
  return pipeline.to_arrays(pipeline.Examples(open_dataset("fashion_mnist", split), prepare))


def conventional(training: Any, steps: int) -> Any:
  """Returns the state of the tutorial's network, trained as the tutorial does."""
  network = tutorial()
  network.train()
  optimizer = nnx.Optimizer(network, optax.adamw(5e-3, 0.9), wrt=nnx.Param)

  @nnx.jit
  def step(network, optimizer, images, labels):
    def loss(network):
      logits = network(GREY(images))
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer.update(network, nnx.grad(loss)(network))

  rng = np.random.default_rng(0)
  for _ in range(steps):
    rows = rng.integers(0, len(training[0]), 64)
    step(network, optimizer, training[0][rows], training[1][rows])
  return nnx.split(network)[1]


def tuned(network: Any, variables: Any, training: Any, steps: int) -> Any:
  """Returns variables after Adam has minimised the binary cross-entropy; statistics are held."""
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

  @jax.jit
  def step(params, moments, images, labels):
    def loss(params):
      logits = network.apply({**variables, "params": params}, network.ops.encoding(images))
      targets = jax.nn.one_hot(labels, 10)
      return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1).mean()

    change, moments = optimizer.update(jax.grad(loss)(params), moments)
    return optax.apply_updates(params, change), moments

  params, rng = variables["params"], np.random.default_rng(1)
  moments = optimizer.init(params)
  for _ in range(steps):
    rows = rng.integers(0, len(training[0]), 64)
    params, moments = step(params, moments, training[0][rows], training[1][rows])
  return {**variables, "params": params}


def accuracy(network: Any, variables: Any, data: Any) -> float:
  """Returns the share of pictures that are classified correctly."""
  apply = jax.jit(lambda images: network.apply(variables, network.ops.encoding(images)))
  logits = [apply(data[0][i : i + 500]) for i in range(0, len(data[0]), 500)]
  return float(np.mean(np.concatenate(logits).argmax(-1) == data[1]))


def train(steps: int, figure: str) -> None:
  """Trains, B-cosifies in closed form, fine-tunes and explains the network of the tutorial."""
  training, test = pictures("train[:10000]"), pictures("test[:1000]")
  fields = {"image_size": 28, "num_classes": 10, "encoding": GREY}
  state = conventional(training, steps)
  begin = {}
  for name, options in {
    "conventional": {},
    "B=2, [z, -z], no biases": {"ops": BcosOps()},
    "in closed form, 512 pictures without labels": {
      "ops": BcosOps(),
      "calibrate": training[0][:512],
    },
  }.items():
    begin[name] = program.as_network("__main__:tutorial", variables=state, **fields, **options)
    print(f"{name}: accuracy {accuracy(*begin[name], test):.3f}", flush=True)
  network, variables = begin["in closed form, 512 pictures without labels"]
  variables = tuned(network, variables, training, steps)
  print(f"and {steps} steps of fine-tuning: accuracy {accuracy(network, variables, test):.3f}")
  ex = bcos_jax.explain(network, variables, test[0][:64], test[1][:64])
  print(
    f"explained: completeness error {ex.completeness_error.max():.0e}, largest residual "
    f"{np.abs(ex.residual).max():.0e}"
  )
  if figure:
    draw(figure, begin["conventional"], (network, variables), test)


def draw(path: str, teacher: Any, student: Any, test: Any) -> None:
  """Draws contributions of one picture of each of five classes, of both networks."""
  import matplotlib.pyplot as plt

  rows = [int(np.flatnonzero(test[1] == label)[0]) for label in (0, 1, 5, 7, 9)]
  images, labels = test[0][rows], test[1][rows]
  found = [
    bcos_jax.explain(*network, images, labels).contributions for network in (teacher, student)
  ]
  canvas, axes = plt.subplots(3, len(rows), figsize=(1.6 * len(rows), 5.0), layout="constrained")
  titles = ("picture", "conventional", "B-cosified")
  for row, (title, maps) in enumerate(zip(titles, (images[..., 0], *found), strict=True)):
    for axis, each in zip(axes[row], maps, strict=True):
      most = np.abs(each).max()
      if row:
        axis.imshow(each, cmap="bwr", vmin=-most, vmax=most)
      else:
        axis.imshow(each, cmap="gray")
      axis.set(xticks=[], yticks=[])
    axes[row, 0].set_ylabel(title)
  canvas.savefig(path, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--only", default="", help="networks whose name contains this")
  parser.add_argument("--train", action="store_true", help="trains on Fashion-MNIST instead")
  parser.add_argument("--steps", type=int, default=150, help="of each training")
  parser.add_argument("--figure", default="", help="file for a figure of explanations")
  args = parser.parse_args()
  if args.train:
    train(args.steps, args.figure)
    return
  print(
    "network | equations | maps | transposed | unexplained | B=1 | unexplained, B-cos | tracing"
  )
  for name, make in NETWORKS.items():
    if args.only in name:
      print(f"{name} | {measure(make)}", flush=True)


if __name__ == "__main__":
  main()
