"""Conversion of ImageNet's (ILSVRC 2012) archives to array_record, without TensorFlow.

The result is what TFDS' own builder `imagenet2012` 5.1.0 makes and is read under that name: same
features, keys, and bytes of every picture but 23. Of those, 22 CMYK files and one PNG file of the
training set, that builder decodes and re-encodes (JPEG, quality 100) with TensorFlow; here PIL
does. Both turn CMYK into RGB by products of (255 - c) and (255 - k); rounding differs by at most
one level before the encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import io
import os
import pathlib
import re
import sys
import tarfile
from typing import Any, ClassVar

from PIL import Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as official
import tqdm

from bcos_jax.errors import InputError

from . import writing

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}
BYTES = {"train": 147_897_477_120, "validation": 6_744_924_160}
PICTURES = {"train": 1_281_167, "validation": 50_000}
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_BLOCK = 512  # of a tar file, which ends with two empty ones

# Not registered: the name is that of TFDS' builder, which reads the result.
with registered.skip_registration():

  class Imagenet2012(tfds.core.GeneratorBasedBuilder):
    """ILSVRC 2012, read from its archives with Python's tarfile."""

    VERSION = tfds.core.Version("5.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"5.1.0": "As TFDS' version of this number."}
    name = "imagenet2012"
    code_path = None  # No checksums lie beside this module.

    def __init__(self, *, archives: pathlib.Path | None = None, complete: bool = True, **fields):
      """Takes the folder of the archives, and whether they have to be the official ones."""
      self._archives, self._complete = archives, complete
      self.splits: Sequence[str] = ()
      super().__init__(**fields)

    def _info(self) -> tfds.core.DatasetInfo:
      features = tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(names_file=_facts("labels.txt")),
          "file_name": tfds.features.Text(),
        }
      )
      return tfds.core.DatasetInfo(
        builder=self,
        description="ILSVRC 2012.",
        features=features,
        supervised_keys=("image", "label"),
        homepage="https://image-net.org/",
      )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
      return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
      assert self._archives is not None, "examples are read from archives"
      archive = self._archives / ARCHIVES[split]
      pictures = {"train": _training_pictures, "validation": _validation_pictures}[split]
      count = 0
      for name, label, image in pictures(archive):
        count += 1
        yield name, {"file_name": name, "image": io.BytesIO(image), "label": label}
      if self._complete and count != PICTURES[split]:
        raise _broken(archive, f"{count} of {PICTURES[split]} pictures")


def prepare(
  archives: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = ("train", "validation"),
  complete: bool = True,
  progress: bool = True,
) -> pathlib.Path:
  """Writes ImageNet as array_record; the result is complete or not there.

  Args:
    archives: Folder with ILSVRC2012_img_train.tar (one tar file per synset) and
      ILSVRC2012_img_val.tar.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of the two to prepare.
    complete: Whether archives must have the official size and number of pictures; otherwise any
      part of them will do.
    progress: Whether to show a progress bar.

  Returns:
    The folder of the data set; if it is there already, nothing is done.

  Raises:
    InputError: An archive is missing, truncated, or not the official one; too little space; a
      folder that cannot be written.
  """
  archives = pathlib.Path(archives).expanduser()
  writing.check_splits("imagenet2012", splits, ARCHIVES)
  for split in splits:
    _check_archive(archives / ARCHIVES[split], BYTES[split] if complete else None)

  def make(folder: str) -> Imagenet2012:
    builder = Imagenet2012(
      archives=archives, complete=complete, data_dir=folder, file_format="array_record"
    )
    builder.splits = splits
    return builder

  return writing.write(
    Imagenet2012,
    make,
    data_dir=data_dir,
    splits=splits,
    size=sum((archives / ARCHIVES[split]).stat().st_size for split in splits),
    around=lambda builder: _bar(builder, progress),
  )


def as_rgb_jpeg(image: bytes) -> bytes:
  """Returns a picture file of any kind as RGB JPEG of quality 100."""
  buffer = io.BytesIO()
  Image.open(io.BytesIO(image)).convert("RGB").save(buffer, format="jpeg", quality=100)
  return buffer.getvalue()


def _training_pictures(archive: pathlib.Path) -> Iterator[tuple[str, str, bytes]]:
  """Yields (file name, synset, file) of an archive of archives."""
  reencoded = {*official.CMYK_IMAGES, *official.PNG_IMAGES}
  with archive.open("rb") as file:
    for member, synset in _files(file, archive):
      if pathlib.PurePath(member).suffix != ".tar":
        raise _broken(archive, f"{member!r}, expected tar files such as n01440764.tar")
      for name, image in _files(io.BytesIO(synset), archive / member):
        picture = as_rgb_jpeg(image) if name in reencoded else image
        yield name, pathlib.PurePath(member).stem, picture


def _validation_pictures(archive: pathlib.Path) -> Iterator[tuple[str, str, bytes]]:
  """Yields (file name, synset, file); TFDS' list has the synsets in the order of the names."""
  labels = pathlib.Path(_facts("validation_labels.txt")).read_text(encoding="utf-8").split()
  with archive.open("rb") as file:
    for name, image in _files(file, archive):
      match = _VALIDATION_NAME.fullmatch(name)
      if not match or not 0 < int(match[1]) <= len(labels):
        raise _broken(archive, f"{name!r}, expected names such as ILSVRC2012_val_00000001.JPEG")
      yield name, labels[int(match[1]) - 1], image


def _files(file: Any, where: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """Yields (name without folder, content) of the files of a tar file, in order."""
  try:
    with tarfile.open(fileobj=file, mode="r|") as tar:
      for member in tar:
        if member.isfile():
          content = tar.extractfile(member)
          assert content is not None, "it is a file"
          yield pathlib.PurePath(member.name).name, content.read()
  except tarfile.TarError as error:
    raise _broken(where, f"an error: {error}") from error


def _facts(name: str) -> str:
  return os.fspath(tfds.core.tfds_path(f"datasets/imagenet2012/{name}"))


def _check_archive(path: pathlib.Path, size: int | None) -> None:
  if not path.is_file():
    raise InputError(
      f"No archive {str(path)!r}.",
      "Register at https://image-net.org/download-images, and put the archive there; or name the "
      "ones you have with --splits.",
    )
  found = path.stat().st_size
  if size is not None and found != size:
    raise InputError(
      f"{str(path)!r} has {found:,} bytes, the official archive {size:,}.",
      "Download it again, or accept it with --any_size.",
    )
  with path.open("rb") as file:
    file.seek(max(found - 2 * _BLOCK, 0))
    if found % _BLOCK or any(file.read()):
      raise _broken(path, "no end")


def _broken(path: pathlib.Path, what: str) -> InputError:
  return InputError(
    f"{str(path)!r} is truncated or a different archive: it has {what}.", "Download it again."
  )


@contextlib.contextmanager
def _bar(builder: Imagenet2012, progress: bool) -> Iterator[None]:
  """Shows how many pictures have been read; the bar keeps its stream when TFDS is silenced."""
  generate = builder._generate_examples
  total = sum(PICTURES[split] for split in builder.splits) if builder._complete else None
  with tqdm.tqdm(
    total=total, unit="picture", file=sys.stderr, disable=not progress, mininterval=1
  ) as bar:

    def counted(split: str) -> Iterator[tuple[str, dict[str, Any]]]:
      bar.set_description(split)
      for example in generate(split):
        bar.update()
        yield example

    builder._generate_examples = counted
    yield
