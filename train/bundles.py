"""Loading of the networks that a recipe starts from or learns from."""

from __future__ import annotations

import pathlib

import bcos_jax
from bcos_jax import convert
from bcos_jax.io import bundles, hub


def open_bundle(init: str) -> bundles.Bundle:
  """Opens what `config.init` names: a bundle, or anything that `convert.from_pretrained` reads.

  Raises:
    InputError: It cannot be read. Nothing is fetched: a hub id must be in the cache.
  """
  if bundles.is_bundle(pathlib.Path(init)):
    return bcos_jax.load(init)
  if pathlib.Path(init).exists() or hub.is_id(init):
    return convert.from_pretrained(init)
  return bcos_jax.load(init)  # Raises with the reason.
