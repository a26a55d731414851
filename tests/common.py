"""Shared test helpers: golden data, variables without training, error measures."""

from __future__ import annotations

from collections.abc import Callable
import functools
import json
import pathlib
from typing import Any
import zlib

from flax import traverse_util
import jax
import numpy as np

from bcos_jax import BcosOps, StandardOps
from bcos_jax.studies import equivalence
from bcos_jax.variables import abstract_variables

from .golden import rules

GOLDEN = pathlib.Path(__file__).parent / "golden"
ROOT = GOLDEN.parent.parent

PRESETS = {
  "standard": StandardOps(),
  "bcosification": BcosOps(),
  "equivalent": BcosOps.equivalent(),
  "v1": BcosOps.v1(),
  "v2": BcosOps.v2(),
  "lm": BcosOps.lm(),
  "aloe1": BcosOps.aloe(implementation=1),
  "aloe2": BcosOps.aloe(),
}

TINY, SIDE, CLASSES = equivalence.networks(), equivalence.SIDE, equivalence.CLASSES
tiny = equivalence.create

_TOKENS = (
  "cls_token",
  "distillation_token",
  "register_tokens",
  "position",
  "probe",
  "relative_position_bias",
  "word",
  "token_type",
  "relative_position",
)

TINY_RUN = (
  "--config.model.name=resnet_tiny",
  "--config.model.stages=(1,)",
  "--config.model.width=4",
  "--config.data.image_size=8",
  "--config.data.batch_size=16",
  "--config.data.test_split=test[:16]",
  "--config.init=",
  "--config.optimizer.warmup_steps=2",
  "--config.mesh.data=1",
  "--config.log_every=1",
)
"""Overrides of a run of the digits that takes seconds."""


def rel(value: Any, expected: Any) -> float:
  """Returns the error relative to the norm of what is expected."""
  value, expected = (np.asarray(a, np.float64) for a in (value, expected))
  assert value.shape == expected.shape, (value.shape, expected.shape)
  return float(np.linalg.norm(value - expected) / max(np.linalg.norm(expected), 1e-30))


def suggestion(name: str) -> str:
  """Returns how an error suggests a name: its wording is compared here alone."""
  return f"Did you mean '{name}'"


def nhwc(x: np.ndarray) -> np.ndarray:
  """Moves channels from the second axis, PyTorch's layout, to the last."""
  return np.moveaxis(x, 1, -1)


def flat(variables: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by path."""
  return traverse_util.flatten_dict(variables, sep="/")


def unflat(leaves: dict[str, Any]) -> dict[str, Any]:
  """The inverse of `flat`."""
  return traverse_util.unflatten_dict(leaves, sep="/")


@functools.cache
def shapes(model) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the leaves of a model's variables by path, without computing anything."""
  return flat(abstract_variables(model))


def filled(model, seed: int = 0) -> dict[str, Any]:
  """Returns variables none of which is trivial: biases, statistics and scales included.

  Variances keep the signal of an untrained network at its size, where B-cos scales would let it
  fade: residuals and gradients would otherwise be compared with nothing.
  """
  leaves, power = {}, getattr(model.ops, "b", 1)
  for path, leaf in shapes(model).items():
    kind = path.rpartition("/")[2]
    seeded = np.random.RandomState(zlib.crc32(f"{seed}/{path}".encode()))
    z = seeded.standard_normal(leaf.shape)
    value = {
      "scale": 1 + 0.1 * z,
      "bias": 0.1 * z,
      "mean": 0.02 * z,
      "var": (1 + 0.5 * np.abs(z)) * (1 if power == 1 else 0.02),
      "b": 1.5 + 0.3 * np.abs(z),
      "logit_scale": 2 + 0.3 * z,
      **dict.fromkeys(_TOKENS, 0.5 * z),
    }.get(kind)
    if kind == "kernel":
      value = z * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    assert value is not None, f"no rule for {path}"
    leaves[path] = np.asarray(value, leaf.dtype)
  return unflat(leaves)


def photos(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
  """Returns blocky random colour images, [count, side, side, 3] in [0, 1]."""
  seeded = np.random.RandomState(seed)
  coarse = np.kron(seeded.random_sample((count, side // 4, side // 4, 3)), np.ones((1, 4, 4, 1)))
  fine = seeded.random_sample((count, side, side, 3))
  return (0.8 * coarse + 0.2 * fine).astype(np.float32)


def pulled_back(function: Callable[[Any], Any], x: Any, cotangent: Any) -> tuple[Any, Any]:
  """Returns function(x) and the gradient of its product with `cotangent`, compiled once."""

  def both(x, cotangent):
    y, pullback = jax.vjp(function, x)
    return y, pullback(cotangent)[0]

  return jax.jit(both)(x, cotangent)


@functools.cache
def applied(model) -> Callable[..., jax.Array]:
  """Returns the compiled function (variables, images) -> logits of a network."""
  return jax.jit(lambda variables, images: model.apply(variables, model.ops.encoding(images)))


@functools.cache
def golden_layers() -> tuple[dict[str, dict[str, Any]], Any]:
  """Returns the cases of the golden layers, and their arrays as `case/name`."""
  return (
    json.loads((GOLDEN / "layers.json").read_text(encoding="utf-8")),
    np.load(GOLDEN / "layers.npz"),
  )


@functools.cache
def golden_keys(name: str) -> dict[str, dict[str, list[int]]]:
  """Returns the key sets of a golden network: kind -> key -> shape."""
  return json.loads((GOLDEN / f"{name}.keys.json").read_text(encoding="utf-8"))


def golden_state(name: str, kind: str) -> dict[str, np.ndarray]:
  """Returns a state dict of a golden network, as its README says to fill it."""
  data = np.load(GOLDEN / f"{name}.npz")
  # A B-cosified network starts from the weights of the conventional one.
  keys = golden_keys(name)["conventional" if kind == "bcosified" else kind]
  return {
    key: data[f"stat/{key}"] if f"stat/{key}" in data else rules.weight(key, tuple(shape))
    for key, shape in keys.items()
  }


@functools.cache
def applied_to_texts(model) -> Callable[..., jax.Array]:
  """Returns the compiled function (variables, ids, mask) -> outputs of a language model."""
  return jax.jit(lambda variables, ids, mask: model.apply(variables, ids, mask=mask))


def stop_at(last: int) -> Callable[[int, Any], None]:
  """Returns a hook that stops a run after a step, as Ctrl-C does."""

  def hook(step, state):
    del state
    if step == last:
      raise KeyboardInterrupt

  return hook


def plain(state: Any) -> Any:
  """Returns a training state's arrays, its typed key as integers."""
  return jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))
