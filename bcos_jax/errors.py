"""Error types with an actionable message: the value, the expectation and the fix."""

from __future__ import annotations

from collections.abc import Iterable
import difflib
import importlib.util

EXTRAS = {
  "app": ("dash", "plotly", "waitress"),
  "datasets": ("datasets",),
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


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
  """Returns the error for a `name` outside `known`, with the nearest name as the fix."""
  known = sorted(known)
  near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
  fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
  return InputError(f"Unknown {kind} {name!r}.", fix)
