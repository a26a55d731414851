"""Exported networks as bundles, and bundles of them as state dicts."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import jax
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.inputs import Encoding
from bcos_jax.io.bundles import Bundle, make_bundle
from bcos_jax.program import ProgramNetwork, as_network

from .exporting import from_torch
from .function import TorchFunction
from .stored import FACTORY, unpacked

SUFFIX = ".pt2"


def from_exported(
  source: str | os.PathLike,
  *,
  encoding: Encoding | None = None,
  image_size: int | tuple[int, int] | None = None,
  labels: Sequence[str] = (),
) -> Bundle:
  """Reads a network of pictures from a `.pt2` file, which `torch.export.save` wrote.

  Args:
    source: Path of the file; it is read without PyTorch, and runs nothing.
    encoding: How the network's input comes from colours in [0, 1]: mean and deviation by channel,
      as its training had them. None passes colours on as they are.
    image_size: Side of the pictures, or height and width, where the file leaves it open.
    labels: Names of the classes.

  Returns:
    The bundle, which contains the program: everything that takes a bundle takes it.

  Raises:
    InputError: As `from_torch`; a network that reads no pictures [N, C, H, W], or returns no
      logits [N, classes]; labels or an encoding that do not fit.
  """
  function, variables = from_torch(source)
  colors = function.example[0] if len(function.example) == 3 else None
  if encoding is None:
    encoding = Encoding((0.0,) * (colors or 3), (1.0,) * (colors or 3))
  elif encoding.colors != colors:
    raise InputError(
      f"mean and std are of {encoding.colors} colour channels, the network reads inputs of shape "
      f"{('N', *function.example)}.",
      "Give one number per channel.",
    )
  model, own = as_network(function, variables=variables, encoding=encoding, image_size=image_size)
  about = {"source": "torch.export", "origin": pathlib.Path(source).name}
  return make_bundle(model, own, labels=labels, provenance=about)


def function_of_network(model: Any) -> TorchFunction:
  """Returns the exported function that a network is made of.

  Raises:
    InputError: It is no such network.
  """
  if not isinstance(model, ProgramNetwork) or model.factory != FACTORY:
    raise InputError(
      f"{type(model).__name__} was not read from a program of PyTorch, whose names it could have.",
      "Write a layout of its architecture instead, such as --to=timm.",
    )
  return unpacked(model.program_arguments["program"])


def state_dict_of(bundle: Bundle) -> dict[str, np.ndarray]:
  """Returns the state dict of the module that a bundle was exported from: all its names.

  Biases that B-cosification removed are zero. The module computes the maps of the B-cos network,
  without the B-cos transforms, which it has not.

  Raises:
    InputError: The bundle has another origin, or its network reads [z, -z] or learns exponents,
      for which the module has no place.
  """
  model = bundle.model
  function = function_of_network(model)
  tree = model.tree_of(bundle.variables)
  if model.extended:
    what = "kernels for [z, -z]" if "negated" in tree else "learned exponents"
    raise InputError(
      f"The network has {what}, for which the module has no place.",
      "B-cosify it without pairing and without learn_b to write it back.",
    )
  removed = {d.name for d in model.made().removed} if not model.ops.conventional else set()
  leaves = {name: np.asarray(leaf) for name, leaf in tree.items()}
  return function.state_dict(
    {n: np.zeros_like(x) if n in removed else x for n, x in leaves.items()}
  )


def largest_difference(path: str | os.PathLike, bundle: Bundle) -> float | None:
  """Returns how far a bundle is from its program as PyTorch runs it.

  Relative to the largest output, on two fixed random inputs; None where there is no PyTorch.

  Raises:
    InputError: PyTorch cannot read the file.
  """
  try:
    import torch
  except ImportError:
    return None
  function = function_of_network(bundle.model)
  x = np.random.default_rng(0).standard_normal((2, *bundle.model.example)).astype(np.float32)
  parts = [x[:1], x[1:]] if function.alone else [x]
  try:
    network = torch.export.load(path).module()
    with torch.no_grad():
      given = [torch.from_numpy(part).to(getattr(torch, function.dtype.name)) for part in parts]
      theirs = np.concatenate([network(part).float().numpy() for part in given])
  except Exception as error:  # whatever it raises for what it cannot read or run here
    what = " ".join(str(error).split())[:200]
    raise InputError(
      f"PyTorch {torch.__version__} cannot run {os.fspath(path)!r}: {what}",
      "Omit --verify, or save it again with torch.export.save.",
    ) from error
  with jax.default_matmul_precision("highest"):
    ours = np.asarray(function(bundle.model.tree_of(bundle.variables), x))
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
