"""PyTorch's file format, written without PyTorch, also with deliberate damage."""

import io
import pickle
from typing import ClassVar
import zipfile


class Name:
  """A global of some module, written by name and never imported."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class Call:
  """A call of a global while reading."""

  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments


class Built:
  """An object that is made without arguments, and whose attributes are set then."""

  def __init__(self, kind, attributes):
    self.kind, self.attributes = kind, attributes


class Storage:
  """The numbers behind a tensor."""

  def __init__(self, key, array, kind=None, size=None):
    kinds = {"float32": "FloatStorage", "int64": "LongStorage"}
    self.key, self.array, self.kind = key, array, kind or kinds[str(array.dtype)]
    self.size = array.size if size is None else size


class Pickler(pickle._Pickler):
  """Pickles the three kinds above and plain containers."""

  dispatch: ClassVar = dict(pickle._Pickler.dispatch)

  def persistent_id(self, value):
    if isinstance(value, Storage):
      return ("storage", Name("torch", value.kind), value.key, "cpu", value.size)
    return None

  def save_name(self, value):
    self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
    self.memoize(value)

  def save_call(self, value):
    self.save(value.function)
    self.save(value.arguments)
    self.write(pickle.REDUCE)
    self.memoize(value)

  def save_built(self, value):
    self.save(value.kind)
    self.save(())
    self.write(pickle.NEWOBJ)
    self.memoize(value)
    self.save(value.attributes)
    self.write(pickle.BUILD)

  dispatch[Built] = save_built
  dispatch[Name] = save_name
  dispatch[Call] = save_call


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
ORDERED = Name("collections", "OrderedDict")


def tensor(key, array, *, size=None, strides=None, **storage):
  """Returns what torch.save writes for a contiguous tensor."""
  size = array.shape if size is None else size
  strides = tuple(s // array.itemsize for s in array.strides) if strides is None else strides
  return Call(REBUILD, Storage(key, array, **storage), 0, size, strides, False, Call(ORDERED))


def state(arrays):
  """Returns a state dict of tensors."""
  return {key: tensor(str(i), array) for i, (key, array) in enumerate(arrays.items())}


def save(path, value, arrays, *, extra=()):
  """Writes an archive whose program makes `value` and whose storages are `arrays`, in order."""
  program = io.BytesIO()
  Pickler(program, protocol=2).dump(value)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", program.getvalue())
    archive.writestr("archive/byteorder", "little")
    for i, array in enumerate(arrays.values()):
      archive.writestr(f"archive/data/{i}", array.tobytes())
    archive.writestr("archive/version", "3\n")
    for name, content in extra:
      archive.writestr(name, content)
