"""Error types with an actionable message: the value, the expectation and the fix."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import difflib
import importlib.util
import math
import numbers
from typing import Any

EXTRAS = {
  "app": ("dash", "plotly", "waitress"),
  "datasets": ("datasets",),
  "onnx": ("onnx", "onnxruntime"),
  "text": ("huggingface_hub", "tokenizers", "transformers"),
  "torch": ("torch",),
  "train": (
    *("absl", "array_record", "grain", "ml_collections", "optax", "orbax", "sklearn"),
    *("tensorboardX", "tensorflow_datasets"),
  ),
}
"""What `requires` looks for: the modules of the packages that each extra installs."""


class InputError(ValueError):
  """Something the caller gave cannot be used.

  Attributes:
    cause: One line that names the offending value and what was expected.
    fix: One line that states what to do instead.
  """

  def __init__(self, cause: str, fix: str = ""):
    super().__init__(f"{cause} {fix}".rstrip())
    self.cause = cause
    self.fix = fix


class RunError(RuntimeError):
  """What a run needs has failed: a disk, a mount, a process.

  Attributes:
    cause: One line that states what has failed.
    fix: One line that states what to do about it.
  """

  def __init__(self, cause: str, fix: str):
    super().__init__(f"{cause} {fix}")
    self.cause = cause
    self.fix = fix


class MissingExtra(InputError, ImportError):
  """Packages are needed that `pip install bcos_jax` alone does not install."""


def requires(extra: str, what: str) -> None:
  """Checks that the packages of an extra are installed; imports nothing.

  Args:
    extra: A name in `EXTRAS`.
    what: What needs them, in the plural, with a capital: "Tokenizers".

  Raises:
    MissingExtra: At least one is not installed.
  """
  missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
  if missing:
    raise MissingExtra(
      f"{what} need the extra {extra!r}, which is not installed ({', '.join(missing)}).",
      f'Run pip install "bcos_jax[{extra}]", or in a checkout pip install -e ".[{extra}]".',
    )


_NEAR = 0.6  # of difflib's ratio: "resnet5" is near "resnet50", "unit" is not near "uniform_bce"
_FEW = 24  # names that a message may list


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
  """Returns the error for a `name` outside `known`.

  The fix is the nearest name if there is a near one, or else the known names, as far as they are
  few.
  """
  known = sorted(known)
  near = difflib.get_close_matches(str(name), known, n=1, cutoff=_NEAR)
  if near:
    fix = f"Did you mean {near[0]!r}?"
  elif len(known) <= _FEW:
    fix = f"Known: {', '.join(known)}."
  else:
    some = difflib.get_close_matches(str(name), known, n=3, cutoff=0.0)
    fix = f"Known: {', '.join(some)} and others, {len(known)} in all."
  return InputError(f"Unknown {kind} {name!r}.", fix)


_KINDS = {
  "bool": ("true or false", lambda value: isinstance(value, bool)),
  "int": ("a whole number", lambda value: _is_number(value, numbers.Integral)),
  "float": ("a finite number", lambda value: _is_number(value, numbers.Real)),
  "str": ("text", lambda value: isinstance(value, str)),
  "tuple[float, ...]": (
    "a tuple of finite numbers",
    lambda value: isinstance(value, tuple) and all(_is_number(x, numbers.Real) for x in value),
  ),
}


def check_fields(value: Any) -> None:
  """Checks the fields of a dataclass whose annotations are plain: bool, int, float, str, numbers.

  Fields of other types are left to the class.

  Raises:
    InputError: For the first field with a value of another type, or a number that is not finite.
  """
  for field in dataclasses.fields(value):
    kind, _, rest = str(field.type).partition(" | ")
    given = getattr(value, field.name)
    if kind not in _KINDS or (rest == "None" and given is None):
      continue
    expected, fits = _KINDS[kind]
    if not fits(given):
      example = f" Its default is {field.default!r}." if _has_plain_default(field) else ""
      raise InputError(
        f"{field.name} is {given!r}, expected {expected}{' or none' if rest == 'None' else ''}.",
        f"Change {field.name}.{example}",
      )


def _has_plain_default(field: dataclasses.Field) -> bool:
  return field.default is not dataclasses.MISSING


def _is_number(value: Any, kind: type) -> bool:
  return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
