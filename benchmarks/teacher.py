"""Cost that a frozen teacher adds to a step, from compiled programs: FLOPs and memory.

  python benchmarks/teacher.py
  python benchmarks/teacher.py --model=clip_resnet50 --objective=clip

The step without teacher compares with features that are given; everything else is the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import bcos_jax
from bcos_jax import BcosOps, StandardOps
from bcos_jax.configs import common
from bcos_jax.train import objectives, optimizer, state
from bcos_jax.train.objectives import Teacher
from bcos_jax.train.step import make_train_step
from bcos_jax.variables import abstract_variables


@dataclasses.dataclass(frozen=True, eq=False)
class Given(Teacher):
  """A teacher whose features and tokens were computed before: they come as variables."""

  def features(self, variables, images):
    return variables["features"]

  def states(self, variables, images, depths):
    return variables["features"], variables["tokens"]


def compiled(goal: objectives.Objective, frozen, variables, batch):
  """Returns the compiled step."""
  config = common.get_config().optimizer
  opt = optimizer.build(config, steps=10, steps_per_epoch=10)
  first = jax.eval_shape(lambda v: state.create(v, opt, state.new_key(0)), variables)
  return make_train_step(goal, opt, None).lower(first, batch, frozen).compile()


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="dinov3_vits16")
  parser.add_argument("--objective", default="align", choices=["align", "clip"])
  parser.add_argument("--batch_size", type=int, default=8)
  options = parser.parse_args()
  student, teacher = (
    bcos_jax.create(options.model, ops=ops, num_classes=0) for ops in (BcosOps(), StandardOps())
  )
  side, count = student.image_size, options.batch_size
  batch = {"image": jax.ShapeDtypeStruct((count, side, side, 3), jnp.float32)}
  depths = objectives.alignment.pick_depths("corrected", getattr(student, "depth", 0))
  variables, frozen = abstract_variables(student), abstract_variables(teacher)
  seen = Teacher(teacher)

  def look(frozen, images):
    if options.objective == "align":
      return dict(zip(("features", "tokens"), seen.states(frozen, images, depths), strict=True))
    return {"features": seen.features(frozen, images)}

  def goal(kind: Teacher):
    if options.objective == "align":
      return objectives.Alignment(student, kind, depths)
    return objectives.ContrastiveDistillation(student, kind)

  forward = jax.jit(look).lower(frozen, batch["image"]).compile()
  given = jax.eval_shape(look, frozen, batch["image"])
  whole = compiled(goal(seen), frozen, variables, batch)
  alone = compiled(goal(Given(teacher)), given, variables, batch)
  flops = [program.cost_analysis()["flops"] for program in (forward, whole, alone)]
  memory = [program.memory_analysis().temp_size_in_bytes / 2**20 for program in (whole, alone)]
  print(f"{options.model}, {options.objective}, {count} pictures of {side} pixels")
  print(f"  the teacher's forward pass     {flops[0] / 1e9:9.1f} GFLOP")
  print(f"  step with, without teacher     {flops[1] / 1e9:9.1f} {flops[2] / 1e9:9.1f} GFLOP")
  print(f"  added, of the forward pass     {(flops[1] - flops[2]) / flops[0]:9.3f}")
  print(f"  temporary memory with, without {memory[0]:9.1f} {memory[1]:9.1f} MiB")


if __name__ == "__main__":
  main()
