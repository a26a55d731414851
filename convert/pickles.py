"""A reader of PyTorch's pickle files (`.pt`, `.pth`, ...) that executes no code.

Such a file is a zip archive: `data.pkl`, a program for Python's pickle machine, and one entry per
tensor storage. This interpreter implements only opcodes that build containers and numbers, and only
the callables in `_CALLABLES`, all of which are functions of this file. Whatever else the program
names is refused by that name: it is never imported.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import pickletools
from typing import Any

import ml_dtypes
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import LazyTensor

from .files.archives import Archive, damaged, strided_tensor

_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_DTYPES = {
  "Double": np.float64,
  "Float": np.float32,
  "Half": np.float16,
  "BFloat16": ml_dtypes.bfloat16,
  "Long": np.int64,
  "Int": np.int32,
  "Short": np.int16,
  "Char": np.int8,
  "Byte": np.uint8,
  "Bool": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class _StorageType:
  dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Storage:
  archive: Archive
  key: str
  dtype: np.dtype
  size: int

  def read(self) -> np.ndarray:
    return np.frombuffer(self.archive.storage(self.key), self.dtype)


class Placeholder(dict):
  """The attributes of an object that holds settings; nothing of its class is built or run."""

  kind = "argparse.Namespace"


def _ignored(kind: str) -> Callable[..., str]:
  """Returns what stands for an object whose arguments say all: text."""
  return lambda *arguments: "/".join(map(str, arguments)) or kind


class Module(dict):
  """The attributes of a TorchScript module; its code is left alone."""


def read_pickle(path: pathlib.Path) -> Any:
  """Returns what a PyTorch file holds: containers, numbers, strings and `LazyTensor`s.

  A TorchScript archive gives its tensors by name.

  Raises:
    InputError: The file is damaged, of PyTorch's old format, or names anything but tensors and
      containers.
  """
  try:
    with path.open("rb") as file:
      head = file.read(64)
  except OSError as error:
    raise InputError(
      f"Cannot read {str(path)!r}: {error.strerror or error}.", "Check the path."
    ) from error
  if not head.startswith(b"PK"):
    old = _LEGACY in head
    raise InputError(
      f"{str(path)!r} is {'of the format of PyTorch before 1.6' if old else 'not a PyTorch file'}.",
      "Save it again with torch.save of a current PyTorch, or as safetensors.",
    )
  archive = Archive(path)
  try:
    value = Machine(str(path), _CALLABLES, archive).run(archive.bytes("data.pkl"))
    return _named_tensors(value) if isinstance(value, Module) else value
  except InputError:
    raise
  except Exception as error:  # a damaged program can raise any Python exception
    what = " ".join(str(error).split()) or type(error).__name__
    raise damaged(path, f"its data.pkl breaks off ({what})") from error


def _named_tensors(module: Module, prefix: str = "", depth: int = 0) -> dict[str, LazyTensor]:
  if depth > 100:
    raise ValueError("modules nested without end")
  tensors = {}
  for name, value in module.items():
    if isinstance(value, LazyTensor):
      tensors[prefix + name] = value
    elif isinstance(value, Module):
      tensors |= _named_tensors(value, f"{prefix}{name}.", depth + 1)
  return tensors


def _rebuild_tensor(storage, offset, size, stride, *rest) -> LazyTensor:
  """`torch._utils._rebuild_tensor_v2`: (storage, offset, size, stride, requires_grad, hooks)."""
  if len(rest) > 2 and rest[2]:
    raise ValueError(f"tensor with metadata {rest[2]!r}")
  return strided_tensor(
    storage.read, storage.size, storage.dtype, offset, tuple(size), tuple(stride)
  )


def _rebuild_parameter(data, *rest) -> LazyTensor:
  if not isinstance(data, LazyTensor):
    raise TypeError(f"parameter of {type(data).__name__}")
  return data


def _set(items=()) -> set:
  return set(items)


def _counter(items=()) -> dict:
  return dict(items)


def _default_dict(factory=None, items=()) -> dict:
  return dict(items)


def _as_list(items=()) -> list:
  return list(items)


CONTAINERS: dict[str, Any] = {
  f"{module}.{name}": kind
  for module in ("builtins", "__builtin__")
  for name, kind in {"set": _set, "dict": dict, "list": list, "tuple": tuple}.items()
}
"""What makes containers."""

_CALLABLES: dict[str, Any] = {
  **CONTAINERS,
  "collections.OrderedDict": OrderedDict,
  "collections.Counter": _counter,
  "collections.defaultdict": _default_dict,
  "torch._utils._rebuild_tensor": _rebuild_tensor,
  "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
  "torch._utils._rebuild_parameter": _rebuild_parameter,
  "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
  "torch.Size": tuple,
  # Settings of training runs: as plain values, without their classes.
  "argparse.Namespace": Placeholder,
  "torch.device": _ignored("torch.device"),
  **{
    f"{module}.{name}": _ignored(name)
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
  },
  "torch.jit._pickle.build_intlist": _as_list,
  "torch.jit._pickle.build_doublelist": _as_list,
  "torch.jit._pickle.build_boollist": _as_list,
  "torch.jit._pickle.build_tensorlist": _as_list,
  **{f"torch.{name}Storage": _StorageType(np.dtype(d)) for name, d in _DTYPES.items()},
}
"""Everything that a file may name, and what is done instead of importing it."""


class Machine:
  """Runs the program of a pickle, opcode by opcode.

  Steps are looked up on the machine, so that a kind of file may have its own.
  """

  def __init__(self, where: str, callables: Mapping[str, Any], archive: Archive | None = None):
    """Takes the file, for messages; all that it may name; and, of tensors, their archive."""
    self._where, self._callables, self._archive = where, callables, archive
    self._stack: list[Any] = []
    self._marks: list[list[Any]] = []
    self._memo: dict[int, Any] = {}

  def run(self, program: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(program):
      if opcode.name == "STOP":
        return self._stack.pop()
      if opcode.name in _CONSTANTS:
        self._stack.append(_CONSTANTS[opcode.name]())
      elif opcode.name in _LITERALS:
        self._stack.append(argument)
      elif (step := _STEPS.get(opcode.name)) is not None:
        step(self, argument)
      elif opcode.name not in ("PROTO", "FRAME"):
        raise self.refused(f"uses {opcode.name}")
    raise ValueError("no end")

  def refused(self, what: str) -> InputError:
    return InputError(
      f"{self._where!r} {what}, which creates neither tensors nor containers: refused, "
      "nothing of it was executed.",
      "If you trust the file, load it with torch and save only its state dict, preferably as "
      "safetensors.",
    )

  def find(self, module: str, name: str) -> Any:
    full = f"{module}.{name}"
    if full in self._callables:
      return self._callables[full]
    if (
      self._archive is not None
      and self._archive.scripted
      and module.partition(".")[0] == "__torch__"
    ):
      return Module
    raise self.refused(f"names {full!r}")

  def call(self, function: Any, arguments: Any):
    if not (callable(function) and isinstance(arguments, tuple)):
      raise TypeError(f"calls {type(function).__name__}")
    # Only what `find` returned is callable: no other opcode makes one.
    self._stack.append(function(*arguments))

  def pop_mark(self) -> list[Any]:
    items, self._stack = self._stack, self._marks.pop()
    return items

  def mark(self, _):
    self._marks.append(self._stack)
    self._stack = []

  def named(self, argument: str):
    self._stack.append(self.find(*argument.split(" ", 1)))

  def stack_named(self, _):
    name, module = self._stack.pop(), self._stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
      raise TypeError("name that is not text")
    self._stack.append(self.find(module, name))

  def reduce(self, _):
    arguments, function = self._stack.pop(), self._stack.pop()
    self.call(function, arguments)

  def persistent(self, _):
    kind, storage_type, key, _, size = self._stack.pop()
    if (
      self._archive is None
      or kind != "storage"
      or not isinstance(storage_type, _StorageType)
      or type(size) is not int
    ):
      raise self.refused(f"refers to {kind!r}")
    dtype, have = storage_type.dtype, self._archive.size(key)
    if have != size * dtype.itemsize:
      raise ValueError(f"storage {key!r} has {have} bytes, expected {size * dtype.itemsize}")
    self._stack.append(_Storage(self._archive, key, dtype, size))

  def build(self, _):
    """Sets attributes: of TorchScript modules; those of containers (`_metadata`) are not kept."""
    state, owner = self._stack.pop(), self._stack[-1]
    if not isinstance(state, dict) or not isinstance(owner, dict):
      raise self.refused(f"sets attributes of a {type(owner).__name__}")
    if isinstance(owner, Module | Placeholder):
      owner.update(state)

  def put(self, index: int):
    self._memo[index] = self._stack[-1]

  def memoize(self, _):
    self._memo[len(self._memo)] = self._stack[-1]

  def get(self, index: int):
    self._stack.append(self._memo[index])

  def fold(self, count: int):
    """Replaces the last `count` items by a tuple."""
    items = self._stack[-count:]
    if len(items) != count:
      raise IndexError("too few items")
    self._stack[-count:] = [tuple(items)]

  def set_items(self, items: list[Any]):
    owner = self._container(dict)
    owner.update(zip(items[::2], items[1::2], strict=True))

  def extend(self, items: list[Any]):
    self._container(list).extend(items)

  def add_items(self, items: list[Any]):
    self._container(set).update(items)

  def _container(self, kind: type) -> Any:
    if not isinstance(self._stack[-1], kind):
      raise TypeError(f"fills a {type(self._stack[-1]).__name__}")
    return self._stack[-1]

  def push(self, value: Any):
    self._stack.append(value)

  def pop(self, _=None) -> Any:
    return self._stack.pop()

  def pop_pair(self) -> list[Any]:
    value, key = self._stack.pop(), self._stack.pop()
    return [key, value]


_CONSTANTS: dict[str, Callable[[], Any]] = {
  "NONE": lambda: None,
  "NEWTRUE": lambda: True,
  "NEWFALSE": lambda: False,
  "EMPTY_DICT": dict,
  "EMPTY_LIST": list,
  "EMPTY_TUPLE": tuple,
  "EMPTY_SET": set,
}
_LITERALS = frozenset(
  "BINUNICODE SHORT_BINUNICODE BINUNICODE8 UNICODE BINBYTES SHORT_BINBYTES BINBYTES8 BINSTRING "
  "SHORT_BINSTRING BININT BININT1 BININT2 INT LONG LONG1 LONG4 BINFLOAT FLOAT".split()
)
_STEPS: Mapping[str, Callable[[Machine, Any], Any]] = {
  "MARK": Machine.mark,
  "GLOBAL": Machine.named,
  "STACK_GLOBAL": Machine.stack_named,
  "REDUCE": Machine.reduce,
  "NEWOBJ": Machine.reduce,
  "BINPERSID": Machine.persistent,
  "BUILD": lambda machine, argument: machine.build(argument),
  "POP": Machine.pop,
  "POP_MARK": lambda machine, _: machine.pop_mark(),
  "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
  "LIST": lambda machine, _: machine.push(machine.pop_mark()),
  "FROZENSET": lambda machine, _: machine.push(frozenset(machine.pop_mark())),
  "TUPLE1": lambda machine, _: machine.fold(1),
  "TUPLE2": lambda machine, _: machine.fold(2),
  "TUPLE3": lambda machine, _: machine.fold(3),
  "SETITEM": lambda machine, _: machine.set_items(machine.pop_pair()),
  "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
  "APPEND": lambda machine, _: machine.extend([machine.pop()]),
  "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
  "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_mark()),
  "PUT": lambda machine, index: machine.put(index),
  "BINPUT": lambda machine, index: machine.put(index),
  "LONG_BINPUT": lambda machine, index: machine.put(index),
  "MEMOIZE": lambda machine, _: machine.memoize(_),
  "GET": lambda machine, index: machine.get(index),
  "BINGET": lambda machine, index: machine.get(index),
  "LONG_BINGET": lambda machine, index: machine.get(index),
}
