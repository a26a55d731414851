"""What traced programs cost, relative to the declared networks, from the compiled programs.

  python benchmarks/program.py
  python benchmarks/program.py --model=resnet50 --batch=8

Explaining through a program is compared with `dynamic_linear`, and a training step of
`program.bcosify` with one of the network that `bcosify` declares, both without input encoding:
floating-point operations and bytes accessed, as the compiler for this machine counts them. Tracing
is compared with `jax.make_jaxpr`, in seconds.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import bcos_jax
from bcos_jax import BcosOps, Encoding, StandardOps, program
from bcos_jax.variables import abstract_variables


def cost(function, *arguments) -> tuple[float, float]:
  """Returns the floating-point operations and bytes of a function, compiled for this machine."""
  found = jax.jit(function).lower(*arguments).compile().cost_analysis()
  return found["flops"], found["bytes accessed"]


def training(function):
  """Returns loss and gradient of a function (variables, inputs) -> logits."""

  def loss(params, rest, inputs, labels):
    odds = jax.nn.log_softmax(function({**rest, "params": params}, inputs))
    return -jnp.mean(jnp.take_along_axis(odds, labels[:, None], axis=1))

  return jax.value_and_grad(loss)


def seconds(function, *arguments):
  """Returns what a function returns, and how long it took."""
  start = time.perf_counter()
  result = function(*arguments)
  return result, time.perf_counter() - start


def rows(name: str, batch: int):
  """Yields (what, ratio of operations, ratio of bytes) of a network."""
  labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
  for ops in (StandardOps(), BcosOps()):
    model = bcos_jax.create(name, ops=ops)
    variables = abstract_variables(model)
    side = (batch, *model.image_sides)
    encoded = jax.ShapeDtypeStruct((*side, ops.encoding.channels), jnp.float32)
    _, plain = seconds(jax.make_jaxpr(model.apply), variables, encoded)
    traced, took = seconds(program.trace, model.apply, variables, encoded)
    images = jax.ShapeDtypeStruct((*side, 3), jnp.float32)

    def explained(v, x, c, traced=traced, encoding=ops.encoding):
      return program.dynamic_map(traced, v, encoding(x), c)

    def declared(v, x, c, model=model):
      return bcos_jax.dynamic_linear(model, v, x, c)

    ours, theirs = (cost(f, variables, images, labels) for f in (explained, declared))
    what = f"explain, {type(ops).__name__}, traced in {took:.1f} s ({took - plain:+.1f} s)"
    yield what, ours[0] / theirs[0], ours[1] / theirs[1]
  yield "train at B=2", *trained(name, batch)


def trained(name: str, batch: int) -> tuple[float, float]:
  """Returns the ratios of a training step of the B-cosified program."""
  none = Encoding(pairing="none")
  model = bcos_jax.create(name, ops=StandardOps(encoding=none))
  orders = {"head_order": "pool_first", "token_head_order": "pool_first", "logit_bias": 0.0}
  own = bcos_jax.create(name, ops=BcosOps(encoding=none, **orders))
  inputs = jax.ShapeDtypeStruct((batch, *model.image_sides, 3), jnp.float32)
  labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
  traced = program.trace(model.apply, abstract_variables(model), inputs, precision=None)
  values = {"*/value/kernel": {"b": 1.0}} if "/value/kernel" in traced.bcosify().table() else {}
  made = traced.bcosify(pool="average", rules=values)
  found = []
  for network, function in ((model, made), (own, own.apply)):
    rest = dict(abstract_variables(network))
    found.append(cost(training(function), rest.pop("params"), rest, inputs, labels))
  return found[0][0] / found[1][0], found[0][1] / found[1][1]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="resnet50,vit_base_patch16_224")
  parser.add_argument("--batch", type=int, default=8)
  args = parser.parse_args()
  print(f"{'network':<24}{'what':<58}{'operations':>11}{'bytes':>8}   (jax {jax.__version__})")
  for name in args.model.split(","):
    for what, operations, moved in rows(name, args.batch):
      print(f"{name:<24}{what:<58}{operations:>11.3f}{moved:>8.3f}", flush=True)


if __name__ == "__main__":
  main()
