"""A network of Haiku on Fashion-MNIST: trained, B-cosified as a program, fine-tuned and explained.

  bcos-jax prepare fashion_mnist --source=FILE_OR_DIR     # once
  python benchmarks/any_network.py

`haiku.nets.ResNet`, four blocks of 16 to 64 channels. It is trained as Haiku does it; the B-cos
program that is made of it is then fine-tuned by the same optimiser, without biases, its running
variances as they were.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bcos_jax
from bcos_jax import Preprocess, program
from bcos_jax.train.data import open_dataset, pipeline

MEAN, STD = 0.286, 0.353  # of the training pictures


def pictures(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns normalised pictures [N, 28, 28, 1] and labels of a split."""
  prepare = Preprocess(size=(28, 28), resize=28, colors=1)
  images, labels = pipeline.to_arrays(
    pipeline.Examples(open_dataset("fashion_mnist", split), prepare)
  )
  return (images - MEAN) / STD, labels


def forward(images, is_training):
  network = hk.nets.ResNet(
    blocks_per_group=(1, 1, 1, 1),
    num_classes=10,
    bottleneck=False,
    channels_per_group=(16, 32, 64, 64),
    use_projection=(True,) * 4,
    initial_conv_config={"kernel_shape": 3, "stride": 1, "with_bias": False},
  )
  return network(images, is_training)


def train(function, variables, state, data, steps: int):
  """Returns variables and state after Adam has minimised the cross-entropy.

  Args:
    function: (variables, state, images) -> (logits, state).
    variables: What is trained.
    state: What is not.
    data: Images and labels.
    steps: Of 64 pictures.
  """
  optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

  @jax.jit
  def step(variables, state, moments, images, labels):
    def loss(variables):
      logits, after = function(variables, state, images)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after

    gradient, after = jax.grad(loss, has_aux=True)(variables)
    change, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(variables, change), after, moments

  moments, rng = optimizer.init(variables), np.random.default_rng(0)
  for _ in range(steps):
    rows = rng.integers(0, len(data[0]), 64)
    variables, state, moments = step(variables, state, moments, data[0][rows], data[1][rows])
  return variables, state


def accuracy(function, data) -> float:
  """Returns the share of pictures that are classified correctly."""
  logits = [jax.jit(function)(data[0][i : i + 500]) for i in range(0, len(data[0]), 500)]
  return float(np.mean(np.concatenate(logits).argmax(-1) == data[1]))


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--steps", type=int, default=300, help="of each training")
  parser.add_argument("--test", type=int, default=2000, help="pictures of the test split")
  args = parser.parse_args()
  training, test = pictures("train"), pictures(f"test[:{args.test}]")
  network = hk.transform_with_state(forward)
  params, state = network.init(jax.random.key(0), training[0][:2], True)
  params, state = train(
    lambda p, s, x: network.apply(p, s, None, x, True), params, state, training, args.steps
  )
  function, variables = program.function_of(network, (params, state), is_training=False)
  print(
    f"conventional: accuracy {accuracy(lambda x: function(variables, x), test):.3f}", flush=True
  )
  traced = program.trace(function, variables, training[0][:1], precision=None)
  print(f"  {traced.check()}")
  same = traced.bcosify(1.0, biases="keep")
  change = jnp.abs(same(variables, test[0][:100]) - function(variables, test[0][:100])).max()
  print(f"B=1 and everything kept: largest change of a logit {change:.1e}")
  made = traced.bcosify(pool="average")
  print(f"B=2, before fine-tuning: accuracy {accuracy(lambda x: made(variables, x), test):.3f}")
  tuned, _ = train(lambda p, s, x: (made((p, s), x), s), params, state, training, args.steps)
  tuned = (tuned, state)
  print(f"B=2, fine-tuned: accuracy {accuracy(lambda x: made(tuned, x), test):.3f}")
  ex = bcos_jax.explain(made, tuned, test[0][:64], test[1][:64])
  print(
    f"explained: completeness error {ex.completeness_error.max():.1e}, largest residual "
    f"{np.abs(ex.residual).max():.1e} of a mean logit {np.abs(ex.value).mean():.1f}"
  )


if __name__ == "__main__":
  main()
