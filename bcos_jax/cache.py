"""Where things are kept between runs that can be made again."""

from __future__ import annotations

import os
import pathlib


def cache_folder(kind: str) -> pathlib.Path:
  """Returns the user's folder for one kind of thing, by the XDG convention; not created here."""
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(base) / "bcos_jax" / kind
