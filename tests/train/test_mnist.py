"""MNIST and its kin from tiny IDX files, in folders and in Debian packages."""

import gzip
import io
import lzma
import subprocess
import sys
import tarfile
from typing import Any

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from bcos_jax import InputError, cli
from bcos_jax.inputs import Preprocess
from bcos_jax.train.config import load_config
from bcos_jax.train.data import augment, open_splits, pipeline, sources
from bcos_jax.train.data.archives import mnist

COUNTS = {"train": 24, "test": 12}


def idx(array: np.ndarray) -> bytes:
  """An IDX file of bytes."""
  return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(len(split))
  count = COUNTS[split]
  images = rng.integers(0, 256, (count, 28, 28), np.uint8)
  return images, (np.arange(count) * 7 % 10).astype(np.uint8)


def files() -> dict[str, bytes]:
  """The four files, packed, by name."""
  return {
    f"{name}.gz": gzip.compress(idx(array))
    for split, names in mnist.FILES.items()
    for name, array in zip(names, arrays(split), strict=True)
  }


def package(members: dict[str, bytes]) -> bytes:
  """A Debian package: an ar archive."""
  content = b"!<arch>\n"
  for name, member in members.items():
    content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(member):<10}`\n".encode() + member
    content += b"\n" * (len(member) % 2)
  return content


def tar(named: dict[str, bytes]) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    for name, content in named.items():
      member = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}")
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return buffer.getvalue()


def debian() -> bytes:
  data = lzma.compress(tar(files()))
  return package({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data})


def lay(folder, contents: dict[str, bytes]):
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in contents.items():
    (folder / name).write_bytes(content)
  return folder


def check(data_dir, name: str, names: list[str]):
  for split in COUNTS:
    dataset = sources.open_dataset(name, split, str(data_dir))
    assert list(dataset.label_names) == names
    records = [dataset.source[i] for i in range(len(dataset))]
    found = sorted(
      (np.asarray(Image.open(io.BytesIO(r["image"]))).tobytes(), int(r["label"])) for r in records
    )
    images, labels = arrays(split)
    expected = [(image.tobytes(), int(n)) for image, n in zip(images, labels, strict=True)]
    assert found == sorted(expected)


@pytest.mark.parametrize("name", list(mnist.KINDS))
def test_a_folder_with_tfds_names(name, tmp_path):
  source = lay(tmp_path / "given" / "deep", files()).parent
  mnist.prepare(name, source, data_dir=str(tmp_path), complete=False)
  theirs: Any = tfds.builder(name, data_dir=str(tmp_path / "elsewhere")).info
  check(tmp_path, name, theirs.features["label"].names)
  ours = tfds.builder_from_directory(str(tmp_path / name / str(theirs.version))).info
  assert repr(ours.features) == repr(theirs.features)


def test_unpacked_files(tmp_path):
  plain = {name.removesuffix(".gz"): gzip.decompress(file) for name, file in files().items()}
  source = lay(tmp_path / "plain", plain)
  mnist.prepare("mnist", source, data_dir=str(tmp_path), complete=False)
  check(tmp_path, "mnist", [str(i) for i in range(10)])


def test_a_debian_package_feeds_a_recipe_without_tensorflow(tmp_path):
  (tmp_path / "dataset.deb").write_bytes(debian())
  command = ["prepare", "fashion_mnist", f"--source={tmp_path / 'dataset.deb'}", "--any_size"]
  code = f"""
import sys
from bcos_jax import cli
assert cli.main({[*command, f"--data_dir={tmp_path}"]!r}) == 0
assert "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
  halves = ["--config.data.train_split=train[12:]", "--config.data.test_split=train[:12]"]
  config = load_config(
    "fashion_mnist:scratch", [f"--config.data.data_dir={tmp_path}", *halves]
  ).data
  splits = open_splits(config)
  assert [len(split) for split in splits] == [12, 12]
  assert splits[0].label_names[-1] == "Ankle boot"
  made = augment.from_config(config.augment, Preprocess((28, 28), 0, colors=1))
  examples = pipeline.Examples(splits[0], made.prepare)
  image = made(examples[0]["image"], np.random.default_rng(0))
  assert image.shape == (28, 28, 1) and image.dtype == np.float32


def test_prepared_once(tmp_path, capsys):
  source = lay(tmp_path / "given", files())
  command = ["prepare", "kmnist", f"--source={source}", f"--data_dir={tmp_path}", "--any_size"]
  assert cli.main([*command, "--splits=test"]) == 0
  place = tmp_path / "kmnist" / "3.0.1"
  before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
  assert cli.main([*command, "--splits=test"]) == 0
  assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before
  assert cli.main(command) == 2
  assert "prepared without train" in capsys.readouterr().err


def broken():
  """Yields (id, changed files, part of the cause)."""
  images, labels = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
  pictures, numbers = arrays("train")
  whole = files()
  yield "packed file cut", {images: whole[images][:-40]}, "truncated"
  yield "pixels cut", {images: gzip.compress(idx(pictures)[:-1])}, "24 x 28 x 28 bytes, 18,815"
  yield "bytes left over", {labels: gzip.compress(idx(numbers) + b"x")}, "25 follow"
  yield "header cut", {images: gzip.compress(idx(pictures)[:9])}, "fewer than its header"
  yield "empty", {images: b""}, "begins with nothing"
  yield "swapped", {images: whole[labels], labels: whole[images]}, "expected 00000803"
  yield "no idx", {labels: b"<html>"}, "begins with 3c68746d"
  yield "other size", {images: gzip.compress(idx(pictures[:, :20]))}, "20 x 28 pixels"
  yield "fewer labels", {labels: gzip.compress(idx(numbers[:-1]))}, "23 labels for 24 pictures"
  yield "label", {labels: gzip.compress(idx(numbers + 1))}, "the label 10"
  yield "huge", {images: gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12)}, "4294967295 x"


@pytest.mark.parametrize(
  ("changed", "part"), [pytest.param(*rest, id=name) for name, *rest in broken()]
)
def test_broken_files_leave_nothing(changed, part, tmp_path, capsys):
  source = lay(tmp_path / "given", files() | changed)
  target = tmp_path / "data"
  command = ["prepare", "fashion_mnist", f"--source={source}", f"--data_dir={target}", "--any_size"]
  assert cli.main(command) == 2
  error = capsys.readouterr().err
  assert part in error and len(error.splitlines()) == 2
  assert not target.exists()


def test_broken_packages_leave_nothing(tmp_path, capsys):
  whole = debian()
  data = whole[whole.index(b"data.tar.xz") + 60 :]
  few = {name: file for name, file in files().items() if not name.startswith("t10k-l")}
  for content, part in (
    (whole[:-100], "should have"),
    (whole[:90], "no data.tar"),
    (b"PK\x03\x04", "no Debian package"),
    (package({"data.tar.xz": data[:-50]}), "truncated"),
    (package({"data.tar.zst": b"\x28\xb5\x2f\xfd"}), "dpkg -x"),
    (package({"data.tar.gz": gzip.compress(tar(few))}), "holds no t10k-labels-idx1-ubyte.gz"),
  ):
    (tmp_path / "a.deb").write_bytes(content)
    command = ["prepare", "mnist", f"--source={tmp_path / 'a.deb'}", "--any_size"]
    assert cli.main([*command, f"--data_dir={tmp_path / 'data'}"]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_other_sources_are_refused(tmp_path):
  def attempt(part, source, **fields):
    with pytest.raises(InputError, match=part):
      mnist.prepare("mnist", source, data_dir=str(tmp_path / "data"), **fields)
    assert not (tmp_path / "data").exists()

  attempt("No file or folder", tmp_path / "nowhere")
  attempt("holds no train-images-idx3-ubyte", lay(tmp_path / "empty", {}))
  source = lay(tmp_path / "given", files())
  attempt("24 pictures, the official file 60,000", source)
  attempt("split", source, splits=("validation",))
  lay(source / "again", files())
  attempt("more than once", source, complete=False)
