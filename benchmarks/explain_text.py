"""Cost of text-prompt explanations and zero-shot classification, from compiled programs.

  python benchmarks/explain_text.py
  python benchmarks/explain_text.py --model=clip_vit_base_patch32 --texts=1,4,16

`explain_text` is one forward pass and a backward pass for each text. Zero-shot classification is
one forward pass and one matrix product with the cached features of C classes: 2 N D C operations,
and those of the softmax's scale and bias.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import bcos_jax
from bcos_jax import zero_shot
from bcos_jax.variables import abstract_variables


def flops(function, *args) -> float:
  """Returns the floating-point operations of a function, compiled for this machine."""
  return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def explained(model, variables, images, texts):
  """What `explain_text` computes on the device."""
  similarity = zero_shot.Similarity(hold=True)
  target = jax.tree_util.Partial(similarity, texts)
  return bcos_jax.dynamic_linear(model, variables, images, target)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="clip_resnet50,clip_vit_base_patch32")
  parser.add_argument("--batch", type=int, default=2)
  parser.add_argument("--texts", default="1,4", help="numbers of texts per image")
  parser.add_argument("--classes", type=int, default=1000)
  args = parser.parse_args()
  print(f"jax {jax.__version__}, batch {args.batch}; cost in forward passes")
  for name in args.model.split(","):
    model = bcos_jax.create(name, ops=bcos_jax.BcosOps())
    variables = abstract_variables(model)
    images = jax.ShapeDtypeStruct((args.batch, model.image_size, model.image_size, 3), jnp.float32)

    def features(variables, images, model=model):
      return model.apply(variables, model.ops.encoding(images))

    forward = flops(features, variables, images)
    width = jax.eval_shape(features, variables, images).shape[-1]
    for count in map(int, args.texts.split(",")):
      texts = jax.ShapeDtypeStruct((count, width), jnp.float32)
      cost = flops(lambda v, x, t, model=model: explained(model, v, x, t), variables, images, texts)
      most = 1.1 * (1 + count)
      print(f"{name}: {count} texts {cost / forward:.2f}, at most {most:.1f}", flush=True)
    texts = jax.ShapeDtypeStruct((args.classes, width), jnp.float32)
    found = jax.ShapeDtypeStruct((args.batch, width), jnp.float32)
    cost = flops(lambda t, f: zero_shot.Similarity()(t, f), texts, found)
    product = 2 * args.batch * width * args.classes
    print(
      f"{name}: {args.classes} classes {cost / product:.3f} matrix products, "
      f"{cost / forward:.1e} forward passes",
      flush=True,
    )


if __name__ == "__main__":
  main()
