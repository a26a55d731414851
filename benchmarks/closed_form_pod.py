"""What B-cosification in closed form costs on TPUs that need not be there, read off compilation.

    python benchmarks/closed_form_pod.py resnet50 --pictures=1024 --topology=v5e:4x4 \
      --map=layer3_1/conv1

Arithmetic of the fits of all maps, counted on the traced programs, whose loops all turn; memory and
collectives of the fits of some maps, compiled with the places split over all chips. Needs libtpu.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import bcos_jax
from bcos_jax import BcosOps, StandardOps, calibration
from bcos_jax.calibration import aims, closed_form, traced
from bcos_jax.calibration.fit import Compared, Rows
from bcos_jax.train.estimates import chips, pod
from bcos_jax.variables import abstract_variables

PASSES = 6
"""Products of bfloat16 that make one of float32, at the highest precision."""


def flops(jaxpr: Any) -> float:
  """Returns the operations of products, factorisations and solves, of every turn of loops."""
  total = 0.0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in equation.invars]
    if name == "dot_general":
      (left, _), _ = params["dimension_numbers"]
      inner = math.prod(shapes[0][axis] for axis in left)
      total += 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
    elif name == "cholesky":
      total += math.prod(shapes[0]) * shapes[0][-1] / 3
    elif name == "triangular_solve":
      total += float(math.prod(shapes[1])) * shapes[0][-1]
    for value in params.values():
      inside = getattr(value, "jaxpr", None)
      if inside is not None:
        total += params.get("length", 1) * flops(getattr(inside, "jaxpr", inside))
  return total


def fits(name: str, pictures: int, b: float) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns path -> (places, rows averaged, groups, inputs, outputs), and the gate, of each map."""
  settings = calibration.Calibration()
  teacher, student = (bcos_jax.create(name, ops=ops) for ops in (StandardOps(), BcosOps(b=b)))
  shape = (settings.batch_size, *teacher.image_sides, teacher.ops.encoding.colors)
  programs = [
    traced.trace(
      model,
      abstract_variables(model),
      jax.ShapeDtypeStruct(shape, jnp.float32),
      closed_form.apply,
    )
    for model in (student, teacher)
  ]
  leaves = bcos_jax.variables.abstract_variables(student)["params"]
  found = {}
  for part in aims.parts(*programs):
    module = programs[0].maps[part.path]
    kernel = leaves
    for key in part.path.split("/"):
      kernel = kernel[key]
    *window, inputs, outputs = kernel["kernel"].shape
    inputs *= math.prod(window)
    groups = getattr(module, "feature_group_count", 1)
    there = aims.rows_per_input(programs[0].shapes[programs[0].response(part.path)])
    wanted = max(settings.rows, settings.rows_per_channel * inputs)
    each = min(there, -(-wanted // pictures))
    head = part.path == student.head
    places, averaged = (pictures, there) if head else (pictures * each, 1)
    found[part.path] = (places, averaged, groups, inputs, outputs), part.student.gate
  return found


def abstract(dims: tuple[int, ...], mesh: Mesh) -> tuple[Rows, jax.ShapeDtypeStruct]:
  """Returns rows, split over the chips, and a kernel, whole on each, as shapes."""
  places, averaged, groups, inputs, outputs = dims
  places = -(-places // mesh.size) * mesh.size
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

  def shape(*sides: int, sharding: Any = split, dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(sides, dtype, sharding=sharding)

  rows = Rows(
    shape(places, averaged, groups, inputs),
    shape(places, outputs),
    shape(places, outputs),
    shape(outputs, sharding=whole),
    shape(places, dtype=jnp.bool_),
  )
  return rows, shape(groups, inputs, outputs // groups, sharding=whole)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("architecture")
  parser.add_argument("--pictures", type=int, default=1024)
  parser.add_argument("--b", type=float, default=2.0)
  parser.add_argument("--topology", default="v5e:4x4")
  parser.add_argument(
    "--map",
    action="append",
    default=[],
    help="path of a map whose fit is compiled; repeatable",
  )
  options = parser.parse_args()
  devices = pod.devices(options.topology)
  mesh = Mesh(list(devices), ("data",))
  chip = chips.TPUS[options.topology.partition(":")[0]]
  effort, everywhere = calibration.Effort(), NamedSharding(mesh, PartitionSpec())
  work, programs = {}, {}
  for path, (dims, gate) in fits(options.architecture, options.pictures, options.b).items():
    rows, kernel = abstract(dims, mesh)
    form = Compared(options.b, bcos_jax.functional.CONV_GUARD, gate)

    def run(rows, kernel, form=form):
      return closed_form._fitted(rows, kernel, form, effort, everywhere)

    with jax.default_matmul_precision("highest"):
      work[path] = flops(jax.make_jaxpr(run)(rows, kernel).jaxpr)
    programs[path] = run, rows, kernel, dims
  total = sum(work.values())
  seconds = PASSES * total / mesh.size / chip.flops
  print(
    f"fits of {len(work)} maps: {total / 1e12:.0f} TFLOP, at least {seconds:.1f} s of products on "
    f"{options.topology} ({PASSES} passes of bfloat16)"
  )
  largest = sorted(work, key=work.__getitem__)[-6:][::-1]
  print(f"most of it: {', '.join(f'{path} {work[path] / total:.0%}' for path in largest)}")
  for path in options.map:
    run, rows, kernel, dims = programs[path]
    begin = time.perf_counter()
    with jax.default_matmul_precision("highest"):
      compiled = jax.jit(run).lower(rows, kernel).compile()
    memory: Any = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    sent = sum(size for _, size in pod.collectives(compiled.as_text() or "").values())
    print(
      f"{path}: places, averaged, groups, inputs, outputs {dims}; {work[path] / total:.0%} of the "
      f"work; {held / 2**30:.2f} GiB of a chip's {chip.memory / 2**30:.0f}; collectives of "
      f"{sent / 2**20:.0f} MiB in the program's text; compiled in "
      f"{time.perf_counter() - begin:.0f} s"
    )


if __name__ == "__main__":
  main()
