"""Cost of explanations in forward passes, exact, from the compiled programs.

  python benchmarks/explain.py
  python benchmarks/explain.py --model=resnet50 --targets=1,4

`explain` with one target per image is one forward and one backward pass with respect to the
input; k targets per image are one forward and k backward passes.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import bcos_jax
from bcos_jax.variables import abstract_variables


def flops(function, *args) -> float:
  """Returns the floating-point operations of a function, compiled for this machine."""
  return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="resnet50,simple_vit_b_patch16_224")
  parser.add_argument("--batch", type=int, default=2)
  parser.add_argument("--targets", default="1,4", help="numbers of targets per image")
  args = parser.parse_args()
  print(
    f"{'network':<28}{'targets':>8}{'forward passes':>16}{'at most':>9}   (jax {jax.__version__})"
  )
  for name in args.model.split(","):
    model = bcos_jax.create(name, ops=bcos_jax.BcosOps())
    variables = abstract_variables(model)
    images = jax.ShapeDtypeStruct((args.batch, model.image_size, model.image_size, 3), jnp.float32)
    forward = flops(lambda v, x, m=model: m.apply(v, m.ops.encoding(x)), variables, images)
    for count in map(int, args.targets.split(",")):
      classes = jax.ShapeDtypeStruct((args.batch, count) if count > 1 else (args.batch,), jnp.int32)
      explained = flops(
        lambda v, x, t, m=model: bcos_jax.dynamic_linear(m, v, x, t), variables, images, classes
      )
      ratio, most = explained / forward, 1.1 * (1 + count)
      print(f"{name:<28}{count:>8}{ratio:>16.2f}{most:>9.1f}", flush=True)


if __name__ == "__main__":
  main()
