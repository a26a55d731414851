"""A reader of bare pickles of NumPy arrays and containers, such as CIFAR's, that executes no code.

Such a file is one program for Python's pickle machine, of Python 2 or 3. Only the functions below
can be named by it, see `pickles`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bcos_jax.errors import InputError

from .pickles import CONTAINERS, Machine

_CODES = {"u1": np.uint8, "i1": np.int8, "i4": np.int32, "i8": np.int64, "f4": np.float32}


@dataclasses.dataclass
class _Type:
  code: str


@dataclasses.dataclass
class _Array:
  state: tuple = ()

  def filled(self) -> np.ndarray:
    """Returns the array; the state is (version, shape, type, whether in Fortran's order, bytes)."""
    _, shape, kind, fortran, content = self.state
    content = content.encode("latin-1") if isinstance(content, str) else content
    flat = np.frombuffer(content, np.dtype(_CODES[kind.code]).newbyteorder("<"))
    return flat.reshape(shape, order="F" if fortran else "C")


def read_arrays(content: bytes, where: str) -> Any:
  """Returns what a pickle holds: containers, numbers, text and arrays. Bytes of Python 2 are text.

  Args:
    content: The pickle.
    where: The file, for messages.

  Raises:
    InputError: It is damaged, or names anything but arrays and containers.
  """
  try:
    return _filled(_ArrayMachine(where, _CALLABLES).run(content))
  except InputError:
    raise
  except Exception as error:  # a damaged program can raise any Python exception
    what = " ".join(str(error).split()) or type(error).__name__
    raise InputError(
      f"{where!r} is truncated or no pickle of arrays: {what}.", "Download it again."
    ) from error


class _ArrayMachine(Machine):
  """Sets the state of arrays and their types as well."""

  def build(self, _: Any) -> None:
    owner = self._stack[-2]
    if isinstance(owner, _Array):
      owner.state = self._stack.pop()
    elif isinstance(owner, _Type):
      order = self._stack.pop()[1]
      if order not in ("<", "|", "="):
        raise self.refused(f"has numbers of byte order {order!r}")
    else:
      super().build(_)


def _filled(value: Any) -> Any:
  """Returns a tree of containers with its arrays made."""
  if isinstance(value, _Array):
    return value.filled()
  if isinstance(value, dict):
    return {_text(key): _filled(part) for key, part in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_filled(part) for part in value)
  return value


def _text(key: Any) -> Any:
  return key.decode("latin-1") if isinstance(key, bytes) else key


def _kind(code: Any, *_: Any) -> _Type:
  if _text(code) not in _CODES:
    raise ValueError(f"numbers of type {code!r}")
  return _Type(_text(code))


def _encoded(text: str, encoding: str) -> bytes:
  """`_codecs.encode`, by which Python 3 writes bytes for Python 2."""
  if encoding != "latin1":
    raise ValueError(f"text in {encoding!r}")
  return text.encode("latin-1")


_CALLABLES: dict[str, Any] = {
  **CONTAINERS,
  "numpy.dtype": _kind,
  "numpy.ndarray": _Array,
  "_codecs.encode": _encoded,
  **{f"numpy.{core}.multiarray._reconstruct": lambda *_: _Array() for core in ("core", "_core")},
}
