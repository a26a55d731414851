"""Cost of explanations of texts: FLOPs in forward passes, and batches against single texts.

  python benchmarks/explain_tokens.py
  python benchmarks/explain_tokens.py --model=roberta_tiny --width=32

FLOPs are read off the compiled programs. Times are ratios within one run, the best of several:
texts of 8 to 64 tokens, all at once in buckets of like lengths, and one by one, as the published
code explains them (padded to 64, so that it compiles once).
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import bcos_jax
from bcos_jax import BcosOps
from bcos_jax.explain.tokens import dynamic_tokens
from bcos_jax.variables import abstract_variables

LENGTH, BUCKETS = 64, (16, 32, 64)


def flops(function, *args) -> float:
  """Returns the floating-point operations of a function, compiled for this machine."""
  return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def in_forward_passes(model, rows: int) -> float:
  """Returns the cost of explaining the predicted classes of a batch."""
  variables, ids = abstract_variables(model), jax.ShapeDtypeStruct((rows, LENGTH), jnp.int32)
  forward = flops(lambda v, ids: model.apply(v, ids), variables, ids)
  return flops(lambda v, ids: dynamic_tokens(model, v, ids), variables, ids) / forward


def seconds(function, repeats: int) -> float:
  """Returns the best of several times, compilation apart."""
  function()
  times = []
  for _ in range(repeats):
    begin = time.perf_counter()
    function()
    times.append(time.perf_counter() - begin)
  return min(times)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="bert_tiny", help="an encoder of texts")
  parser.add_argument("--width", type=int, default=64, help="channels; the studies' BERT has 64")
  parser.add_argument("--texts", type=int, default=512)
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  model = bcos_jax.create(args.model, ops=BcosOps.lm(), context_length=LENGTH, width=args.width)
  what = f"{args.model} of {args.width} channels"
  print(f"jax {jax.__version__}, {what}, {args.texts} texts of 8 to {LENGTH} tokens")
  print(f"explaining a batch: {in_forward_passes(model, 8):.2f} forward passes")

  seeded = np.random.default_rng(0)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  ids = seeded.integers(0, model.vocab_size, (args.texts, LENGTH), dtype=np.int32)
  mask = np.arange(LENGTH) < seeded.integers(8, LENGTH + 1, (args.texts, 1))

  def explain(rows, **options):
    bcos_jax.explain(model, variables, ids[rows], mask=mask[rows], keep_weights=False, **options)

  together = seconds(lambda: explain(slice(None), buckets=BUCKETS, batch_size=32), args.repeats)
  single = seconds(lambda: [explain(slice(i, i + 1)) for i in range(args.texts)], args.repeats)
  print(f"texts per second, batches over one at a time: {single / together:.1f}")


if __name__ == "__main__":
  main()
