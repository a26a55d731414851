"""Cache folders for files that can be recreated."""

from __future__ import annotations

import os
import pathlib


def cache_folder(kind: str) -> pathlib.Path:
  """Returns the user's folder for one kind of thing, by the XDG convention; not created here."""
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(base) / "bcos_jax" / kind


def keep_compiled() -> None:
  """Lets the next run of a program start without compiling again; for command lines to call."""
  import jax

  if not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))


def quiet_libtpu() -> None:
  """Keeps libtpu from writing to the terminal as it looks for chips that are not there.

  It is loaded wherever it is installed, and writes lines of INVALID_ARGUMENT on a machine without
  TPU. What fails on a TPU comes as an exception. Set before JAX first touches a device; what the
  user has set stays.
  """
  os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "4")
  os.environ.setdefault("TPU_MIN_LOG_LEVEL", "4")
