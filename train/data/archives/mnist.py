"""MNIST, Fashion-MNIST and KMNIST from their IDX files, without TensorFlow.

The result has the names, versions, features and keys of TFDS' builders and is read under their
names. Pictures are stored as PNG, pixels unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import gzip
import io
import lzma
import os
import pathlib
import tarfile
from typing import Any, ClassVar
import zlib

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from bcos_jax.errors import InputError

from ..digits import png
from . import writing

FILES = {
  "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
  "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
PICTURES = {"train": 60_000, "test": 10_000}
_SIDE = 28
_BYTE = 0x08  # IDX's code of the type; the magic number is 0, 0, type, number of axes.
_AR = b"!<arch>\n"
_HEADER = 60  # bytes before each member of an ar archive
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
  ".xz": lzma.decompress,
  ".gz": gzip.decompress,
  "": bytes,
}


class Idx(tfds.core.GeneratorBasedBuilder):
  """Examples that are given, in place of a download."""

  VERSION = tfds.core.Version("3.0.1")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"3.0.1": "As TFDS' version of this number."}
  code_path = None  # No checksums lie beside this module.
  labels: ClassVar[Sequence[str]]
  description: ClassVar[str]

  def __init__(self, *, read: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None, **fields):
    """Takes pictures uint8 [N, 28, 28] and labels uint8 [N], by split."""
    self._read = read or {}
    super().__init__(**fields)

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(shape=(_SIDE, _SIDE, 1)),
        "label": tfds.features.ClassLabel(names=list(self.labels)),
      }
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.description,
      features=features,
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(*pair) for split, pair in self._read.items()}

  def _generate_examples(
    self, images: np.ndarray, labels: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield index, {"image": png(image), "label": int(label)}


# Not registered: the names are those of TFDS' builders, which read the results.
with registered.skip_registration():

  class Mnist(Idx):
    """Handwritten digits."""

    name = "mnist"
    labels = "0123456789"
    description = "Handwritten digits."

  class FashionMnist(Idx):
    """Clothes, shoes and bags."""

    name = "fashion_mnist"
    labels = (
      *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
      *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    description = "Pictures of clothes, shoes and bags (arXiv 1708.07747)."

  class Kmnist(Idx):
    """Handwritten hiragana."""

    name = "kmnist"
    labels = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    description = "Handwritten hiragana (arXiv 1812.01718)."


KINDS: dict[str, type[Idx]] = {kind.name: kind for kind in (Mnist, FashionMnist, Kmnist)}


def prepare(
  name: str,
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = ("train", "test"),
  complete: bool = True,
) -> pathlib.Path:
  """Writes a data set of 28 x 28 grey pictures as array_record; complete or not there.

  Args:
    name: One of `KINDS`.
    source: Folder that holds the IDX files (train-images-idx3-ubyte.gz and so on, or unpacked) at
      any depth, or a Debian package of them, such as dataset-fashion-mnist.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of train and test to prepare.
    complete: Whether there must be 60,000 and 10,000 pictures; otherwise any number will do.

  Returns:
    The folder of the data set; if it is there already, nothing is done.

  Raises:
    InputError: A file is missing, truncated, or not what its name says; too little space; a folder
      that cannot be written.
  """
  writing.check_splits(name, splits, FILES)
  kind = KINDS[name]
  source = pathlib.Path(source).expanduser()
  wanted = [file for split in splits for file in FILES[split]]
  files = _in_folder(source, wanted) if source.is_dir() else _in_package(source, wanted)
  read = {split: _examples(files, split, complete) for split in splits}
  return writing.write(
    kind,
    lambda folder: kind(read=read, data_dir=folder, file_format="array_record"),
    data_dir=data_dir,
    splits=splits,
    size=sum(images.nbytes for images, _ in read.values()),
  )


def parse_idx(content: bytes, axes: int, where: str) -> np.ndarray:
  """Returns the array of an IDX file of bytes.

  Args:
    content: Of the file, unpacked or packed by gzip.
    axes: How many are expected.
    where: The file, for messages.

  Returns:
    uint8, with so many axes.

  Raises:
    InputError: It is truncated, has bytes left over, or is no such file.
  """
  if content[:2] == b"\x1f\x8b":
    try:
      content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
      raise _broken(where, f"gzip says {str(error).rstrip('.')!r}") from error
  magic, start = bytes((0, 0, _BYTE, axes)), 4 + 4 * axes
  if content[:4] != magic:
    found = content[:4].hex() or "nothing"
    raise _broken(where, f"it begins with {found}, expected {magic.hex()}")
  if len(content) < start:
    raise _broken(where, f"it has {len(content)} bytes, fewer than its header")
  shape = tuple(np.frombuffer(content, ">u4", axes, 4).tolist())
  size = int(np.prod(shape, dtype=object))
  if len(content) - start != size:
    said = " x ".join(map(str, shape))
    raise _broken(where, f"its header says {said} bytes, {len(content) - start:,} follow")
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _examples(
  files: Mapping[str, tuple[str, bytes]], split: str, complete: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns pictures and labels of a split; `files` are (where, content) by name."""
  (where, pictures), (where_labels, numbers) = (files[file] for file in FILES[split])
  images, labels = parse_idx(pictures, 3, where), parse_idx(numbers, 1, where_labels)
  if images.shape[1:] != (_SIDE, _SIDE):
    raise _broken(where, f"its pictures have {images.shape[1]} x {images.shape[2]} pixels, not 28")
  if len(images) != len(labels):
    raise _broken(where_labels, f"it has {len(labels):,} labels for {len(images):,} pictures")
  if complete and len(images) != PICTURES[split]:
    raise InputError(
      f"{where!r} has {len(images):,} pictures, the official file {PICTURES[split]:,}.",
      "Download it again, or accept it with --any_size.",
    )
  if len(labels) and labels.max() > 9:
    raise _broken(where_labels, f"it has the label {labels.max()}, expected 0 to 9")
  return images, labels


def _in_folder(folder: pathlib.Path, wanted: Sequence[str]) -> dict[str, tuple[str, bytes]]:
  found: dict[str, tuple[str, bytes]] = {}
  for name in wanted:
    paths = sorted(path for end in ("", ".gz") for path in folder.rglob(name + end))
    if not paths:
      raise _missing(folder, name)
    if len(paths) > 1:
      raise InputError(
        f"{str(folder)!r} holds {name} more than once: {paths[0]} and {paths[1]}.",
        "Give --source the folder of one data set.",
      )
    with _readable(paths[0]):
      found[name] = str(paths[0]), paths[0].read_bytes()
  return found


def _in_package(package: pathlib.Path, wanted: Sequence[str]) -> dict[str, tuple[str, bytes]]:
  """Returns files of a Debian package: an ar archive, whose data are in a tar archive."""
  found: dict[str, tuple[str, bytes]] = {}
  with _readable(package):
    with tarfile.open(fileobj=io.BytesIO(_data(package)), mode="r:") as tar:
      for member in tar:
        path = pathlib.PurePosixPath(member.name)
        name = path.name.removesuffix(".gz")
        if name in wanted and member.isfile():
          content = tar.extractfile(member)
          assert content is not None, "it is a file"
          found[name] = f"{package}: {path}", content.read()
  for name in wanted:
    if name not in found:
      raise _missing(package, name)
  return found


def _data(package: pathlib.Path) -> bytes:
  """Returns the tar archive of a Debian package's files."""
  content = package.read_bytes()
  if not content.startswith(_AR):
    raise InputError(
      f"{str(package)!r} is no Debian package: it begins with {content[:8].hex() or 'nothing'}.",
      "Give --source a .deb file, or the folder of the IDX files.",
    )
  begin = len(_AR)
  while begin + _HEADER <= len(content) and content[begin + 48 : begin + 58].strip().isdigit():
    name = content[begin : begin + 16].decode("latin-1").strip().rstrip("/")
    size = int(content[begin + 48 : begin + 58])
    begin += _HEADER
    if name.startswith("data.tar"):
      if begin + size > len(content):
        there = f"{len(content) - begin:,} are there"
        raise _broken(str(package), f"{name} should have {size:,} bytes, {there}")
      return _unpacked(package, name, content[begin : begin + size])
    begin += size + size % 2  # members begin at even places
  raise _broken(str(package), "it has no data.tar")


def _unpacked(package: pathlib.Path, name: str, content: bytes) -> bytes:
  kind = name.removeprefix("data.tar")
  if kind not in _UNPACK:
    raise InputError(
      f"{str(package)!r} is packed as {kind}, expected {' or '.join(filter(None, _UNPACK))}.",
      f"Unpack it: dpkg -x {package.name} FOLDER, and give --source that folder.",
    )
  return _UNPACK[kind](content)


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except FileNotFoundError as error:
    raise InputError(
      f"No file or folder {str(path)!r}.",
      "Give --source a folder with the IDX files, or a Debian package of them: apt-get download "
      "dataset-fashion-mnist.",
    ) from error
  except (OSError, tarfile.TarError, lzma.LZMAError, EOFError, zlib.error) as error:
    raise _broken(str(path), f"reading it says {str(error).rstrip('.')!r}") from error


def _missing(where: pathlib.Path, name: str) -> InputError:
  return InputError(
    f"{str(where)!r} holds no {name}.gz.",
    f"Give --source what holds {', '.join(f'{n}.gz' for pair in FILES.values() for n in pair)}.",
  )


def _broken(where: str, what: str) -> InputError:
  return InputError(f"{where!r} is truncated or another file: {what}.", "Download it again.")
