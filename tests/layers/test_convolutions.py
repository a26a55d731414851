"""Convolutions by other formulations: the numbers of XLA's own, with derivatives of every order."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from bcos_jax.layers.convolutions import DENSE, Geometry, convolve, cpu, plain, window_sum

from ..common import rel

FIXED = {
  "matrix": (DENSE, (4, 3), 3, 5),
  "matrix, narrowing": (DENSE, (4, 3), 5, 2),
  "stem": (Geometry((7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)), (13, 12), 6, 4),
  "shortcut": (Geometry((1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1)), (9, 8), 3, 5),
  "dense": (Geometry((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)), (5, 4), 3, 5),
  "patches": (Geometry((4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1)), (12, 9), 3, 5),
  "many taps": (Geometry((12, 11), (1, 1), ((5, 6), (5, 5)), (1, 1), 2), (12, 11), 2, 2),
  "depthwise": (Geometry((7, 7), (1, 1), ((3, 3), (3, 3)), (1, 1), 6), (9, 8), 6, 6),
  "depthwise, strided": (Geometry((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 6), (9, 8), 6, 6),
  "depthwise, wider": (Geometry((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3), (7, 6), 3, 6),
  "grouped": (Geometry((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4), (9, 8), 8, 12),
  "dilated": (Geometry((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)), (9, 8), 3, 2),
  "dilated and strided": (Geometry((3,), (2,), ((2, 1),), (2,)), (11,), 3, 2),
}


def _drawn(seed: int):
  """A random geometry of 1 to 3 dimensions; pads are within the reach of the kernel."""
  draw = np.random.default_rng(seed)
  rank, groups = 1 + seed % 3, int(draw.choice([1, 1, 2, 3]))
  window = tuple(map(int, draw.integers(1, 5, rank)))
  dilation = tuple(map(int, draw.integers(1, 3, rank))) if seed % 4 == 0 else (1,) * rank
  reach = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
  pads = tuple(tuple(map(int, draw.integers(0, r + 1, 2))) for r in reach)
  strides = tuple(map(int, draw.integers(1, 5, rank)))
  spatial = tuple(r + 1 + int(n) for r, n in zip(reach, draw.integers(0, 6, rank), strict=True))
  inputs, outputs = (groups * int(n) for n in draw.integers(1, 4, 2))
  return Geometry(window, strides, pads, dilation, groups), spatial, inputs, outputs


CASES = FIXED | {f"random {seed}": _drawn(seed) for seed in range(18)}


def _arrays(case):
  geometry, spatial, inputs, outputs = case
  draw = np.random.default_rng(math.prod(spatial))
  shapes = (
    (2, *spatial, inputs),
    (*geometry.window, inputs // geometry.groups, outputs),
    (2, *(geometry.spatial_out(spatial) if geometry.rank else spatial), outputs),
  )
  return [jnp.float32(draw.standard_normal(shape)) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_formulations_for_cpus_are_the_same_maps(name):
  geometry, spatial, *_ = CASES[name]
  spatial = spatial if geometry.rank else ()
  x, kernel, cotangent = _arrays(CASES[name])

  @jax.jit
  def both(x, kernel, cotangent):
    return [
      (
        room.convolved(x, kernel, geometry),
        room.input_gradient(cotangent, kernel, geometry, spatial),
        room.kernel_gradient(x, cotangent, geometry),
      )
      for room in (plain, cpu)
    ]

  for expected, got in zip(*both(x, kernel, cotangent), strict=True):
    assert got.shape == expected.shape
    assert rel(got, expected) <= 1e-6


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"many taps"}))
def test_derivatives_of_derivatives(name):
  geometry = CASES[name][0]
  x, kernel, cotangent = _arrays(CASES[name])

  def derivatives(function):
    def loss(x, kernel):
      return jnp.sum(jnp.sin(0.1 * function(x, kernel, geometry)) * cotangent)

    def outer(x, kernel):
      return sum(jnp.sum(jnp.cos(0.1 * part)) for part in jax.grad(loss, (0, 1))(x, kernel))

    along = jax.jvp(lambda x, k: function(x, k, geometry), (x, kernel), (x, jnp.ones_like(kernel)))
    return jax.grad(loss, (0, 1))(x, kernel), jax.grad(outer, (0, 1))(x, kernel), along

  expected, got = jax.jit(lambda: (derivatives(plain.convolved), derivatives(convolve)))()
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert rel(a, b) <= 1e-6


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("name", ["grouped", "matrix"])
def test_batches_of_inputs_and_of_kernels(name, axes):
  geometry, *_ = CASES[name]
  x, kernel, _ = _arrays(CASES[name])
  operands = [
    part if axis is None else jnp.stack([part, -part, 0.5 * part])
    for part, axis in zip((x, kernel), axes, strict=True)
  ]

  def gradients(x, kernel):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(convolve(*a, geometry))), (0, 1))(x, kernel)

  mapped = jax.jit(jax.vmap(gradients, axes))(*operands)
  for i in range(3):
    each = [p if axis is None else p[i] for p, axis in zip(operands, axes, strict=True)]
    for whole, alone in zip(mapped, gradients(*each), strict=True):
      assert rel(whole[i], alone) <= 1e-6


def test_other_platforms_keep_the_convolutions_of_jax():
  """What is compiled for an accelerator on a machine without one holds its formulation."""
  geometry = CASES["stem"][0]
  x, kernel, _ = _arrays(CASES["stem"])
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, kernel, geometry)))))
  dilated = {
    platform: "lhs_dilate = [2, 2]"
    in gradient.trace(x).lower(lowering_platforms=(platform,)).as_text()
    for platform in ("cpu", "tpu", "cuda")
  }
  assert dilated == {"cpu": False, "tpu": True, "cuda": True}


def test_pads_beyond_the_kernel():
  """XLA's own gradients read past the end of the cotangent there."""
  geometry = Geometry((2, 3), (1, 2), ((3, 2), (4, 0)), (1, 1))
  assert (geometry.beyond, geometry.within) == (((2, 1), (2, 0)), ((1, 1), (2, 0)))
  x, kernel, cotangent = _arrays((geometry, (5, 6), 3, 2))
  padded = jnp.pad(x, ((0, 0), *geometry.pads, (0, 0)))
  bare = Geometry((2, 3), (1, 2), ((0, 0), (0, 0)), (1, 1))

  def gradients(x, kernel, geometry):
    loss = jax.grad(lambda *a: jnp.sum(convolve(*a, geometry) * cotangent), (0, 1))
    return loss(x, kernel)

  d_x, d_kernel = jax.jit(gradients, static_argnums=2)(x, kernel, geometry)
  d_padded, expected = gradients(padded, kernel, bare)
  assert rel(d_x, d_padded[:, 3:8, 4:10]) <= 1e-6
  assert rel(d_kernel, expected) <= 1e-6


@pytest.mark.parametrize("name", ["depthwise", "depthwise, strided", "random 4"])
def test_sums_over_windows(name):
  geometry, *_ = CASES[name]
  x, *_ = _arrays(CASES[name])

  def both(function):
    return function(x), jax.grad(lambda x: jnp.sum(jnp.sin(function(x))))(x)

  got = jax.jit(lambda: both(lambda x: window_sum(x, geometry)))()
  expected = jax.jit(lambda: both(lambda x: plain.window_sum(x, geometry)))()
  mapped = jax.vmap(lambda x: window_sum(x, geometry), 1, 1)(jnp.stack([x, -x], 1))
  for a, b in zip((*got, mapped[:, 1]), (*expected, -expected[0]), strict=True):
    assert rel(a, b) <= 1e-6


@pytest.mark.parametrize("name", ["matrix", "stem", "depthwise"])
def test_devices_that_a_program_names(name):
  """In `shard_map` gradients of kernels are summed over the devices, as JAX does it."""
  geometry, *_ = CASES[name]
  x, kernel, _ = _arrays(CASES[name])
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

  def loss(kernel, x):
    seen = window_sum(x, geometry) if geometry.rank else x
    return jnp.sum(jnp.sin(0.1 * convolve(x, kernel, geometry))) + jnp.sum(jnp.sin(seen))

  def step(kernel, x):
    return jax.grad(lambda kernel: jax.lax.psum(loss(kernel, x), "data"))(kernel)

  split = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
  assert rel(jax.jit(split)(kernel, x), jax.grad(loss)(kernel, x)) <= 1e-6
