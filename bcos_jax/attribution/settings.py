"""Settings of attribution methods: a frozen value per method, which knows how to run."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError, unknown_name
from .task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """Settings of an attribution method, checked when they are given.

  To add a method, subclass it: the fields are its settings, the docstring is that of the method.
  Two fields are the task's, where a method has them: `score`, a name of `task.SCORES`, and
  `baseline`, an input without content.

  Attributes:
    name: What it is called.
    kinds: What it explains: 'images', 'texts' or both.
    needs: Functions of a `TextTask` that it calls, besides `predict`.
    batch_size: Inputs on the device at once where nothing else is requested.
  """

  name: ClassVar[str]
  kinds: ClassVar[tuple[str, ...]] = ("images",)
  needs: ClassVar[tuple[str, ...]] = ()
  batch_size: ClassVar[int] = 16

  def run(self, task: Task) -> np.ndarray:
    """Returns the maps of a task, [N, K, H, W] or [N, K, L]."""
    raise NotImplementedError


def settings_of(method: type[Method]) -> tuple[str, ...]:
  """Returns the names of a method's settings."""
  return tuple(field.name for field in dataclasses.fields(method))


def with_settings(method: type[Method], settings: dict[str, Any]) -> Method:
  """Returns a method with some of its settings, else raises InputError with the nearest name."""
  known = settings_of(method)
  for setting in settings:
    if setting not in known:
      if not known:
        raise InputError(f"{method.name!r} has no settings, got {setting!r}.", "Omit it.")
      raise unknown_name(f"setting of {method.name!r}", setting, known)
  return method(**settings)


def method_named(methods: Iterable[type[Method]], name: str, settings: dict[str, Any]) -> Method:
  """Returns a method by name, else raises InputError; also for a setting that it does not have."""
  known = {method.name: method for method in methods}
  if name not in known:
    raise unknown_name("attribution method", name, known)
  return with_settings(known[name], settings)
