"""ImageNet from archives of the official layout, with generated pictures."""

import io
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from bcos_jax import InputError, cli
from bcos_jax.train.data import sources
from bcos_jax.train.data.archives import imagenet, writing

SYNSETS = ("n01440764", "n01739381", "n02105855", "n13044778")
CMYK, PNG = "n01739381_1309.JPEG", "n02105855_2933.JPEG"
FACTS = pathlib.Path(tfds.core.tfds_path("datasets/imagenet2012"))


def picture(i, kind="jpeg", mode="RGB"):
  channels = len(mode)
  pixels = np.random.default_rng(i).integers(0, 256, (12, 10 + i % 5, channels), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels, mode).save(buffer, format=kind)
  return buffer.getvalue()


def archive(files):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return buffer.getvalue()


@pytest.fixture(scope="module")
def train():
  files = {s: {f"{s}_{i}.JPEG": picture(i) for i in range(3)} for s in SYNSETS}
  files["n01739381"][CMYK] = picture(7, mode="CMYK")
  files["n02105855"][PNG] = picture(8, kind="png")
  return files


@pytest.fixture(scope="module")
def validation():
  numbers = (1, 2, 3, 49_999, 50_000)
  return {f"ILSVRC2012_val_{i:08}.JPEG": picture(i) for i in numbers}


@pytest.fixture(scope="module")
def archives(tmp_path_factory, train, validation):
  folder = tmp_path_factory.mktemp("archives")
  synsets = {f"{synset}.tar": archive(files) for synset, files in train.items()}
  (folder / "ILSVRC2012_img_train.tar").write_bytes(archive(synsets))
  (folder / "ILSVRC2012_img_val.tar").write_bytes(archive(validation))
  return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, archives):
  data_dir = str(tmp_path_factory.mktemp("data"))
  imagenet.prepare(archives, data_dir=data_dir, complete=False, progress=False)
  return data_dir


def records(data_dir, split):
  dataset = sources.open_dataset("imagenet2012", split, data_dir)
  assert len(dataset.label_names) == 1000
  return {
    record["file_name"].decode(): (dataset.label_names[record["label"]], record["image"])
    for record in (dataset.source[i] for i in range(len(dataset)))
  }


def test_training_pictures(prepared, train):
  found = records(prepared, "train")
  expected = {name: (s, image) for s, files in train.items() for name, image in files.items()}
  assert found.keys() == expected.keys()
  for name, (synset, image) in found.items():
    assert synset == expected[name][0]
    assert (image == expected[name][1]) == (name not in (CMYK, PNG))


def test_validation_pictures_have_the_labels_of_the_list(prepared, validation):
  labels = (FACTS / "validation_labels.txt").read_text().split()
  found = records(prepared, "validation")
  assert found == {name: (labels[int(name[15:23]) - 1], validation[name]) for name in validation}


def test_pictures_encoded_anew(prepared, train):
  found = records(prepared, "train")
  for name, synset in ((CMYK, "n01739381"), (PNG, "n02105855")):
    image = Image.open(io.BytesIO(found[name][1]))
    assert image.mode == "RGB" and image.format == "JPEG"
    before = Image.open(io.BytesIO(train[synset][name])).convert("RGB")
    assert image.size == before.size


def test_cmyk_is_the_product_of_the_complements():
  """TensorFlow's rule for the stored, inverted inks is c * k / 255, rounded down."""
  rng = np.random.default_rng(0)
  inks = rng.integers(0, 256, (64, 64, 4), np.uint8)
  pil = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"), int)
  inverted = 255 - inks.astype(int)
  assert np.abs(pil - inverted[..., :3] * inverted[..., 3:] // 255).max() <= 1


def test_the_features_are_tfds(prepared):
  ours = tfds.builder_from_directory(f"{prepared}/imagenet2012/5.1.0").info.features
  theirs = tfds.builder("imagenet2012", data_dir="elsewhere").info.features
  assert repr(ours) == repr(theirs)
  assert ours["label"].names == theirs["label"].names


def test_without_tensorflow_from_the_command_line(tmp_path, archives):
  command = ["prepare", "imagenet2012", f"--archives={archives}", f"--data_dir={tmp_path}"]
  code = (
    "import sys; from bcos_jax import cli; code = cli.main(sys.argv[1:]); "
    "assert 'tensorflow' not in sys.modules; sys.exit(code)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, *command, "--any_size"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "Prepared" in done.stdout and "picture" in done.stderr
  assert [path.name for path in tmp_path.iterdir()] == ["imagenet2012"]


def test_prepared_once(prepared, archives, tmp_path):
  folder = imagenet.prepare(archives, data_dir=prepared, complete=False)
  assert folder.name == "5.1.0"
  imagenet.prepare(
    archives, data_dir=str(tmp_path), complete=False, splits=["validation"], progress=False
  )
  with pytest.raises(InputError, match="prepared without train"):
    imagenet.prepare(archives, data_dir=str(tmp_path), complete=False)


def test_archives_that_cannot_be_used(tmp_path, archives, train, capsys):
  def attempt(message, **options):
    with pytest.raises(InputError, match=message):
      imagenet.prepare(
        tmp_path, data_dir=str(tmp_path / "data"), progress=False, **{"complete": False} | options
      )
    assert not list((tmp_path / "data").glob("*/*"))

  attempt("No archive")
  attempt("Unknown split", splits=["test"])
  whole = (archives / "ILSVRC2012_img_train.tar").read_bytes()
  path = tmp_path / "ILSVRC2012_img_train.tar"
  path.write_bytes(whole)
  only = {"splits": ["train"]}
  attempt("official archive 147,897,477,120", complete=True, **only)
  path.write_bytes(whole[: len(whole) // 2 // 512 * 512])
  attempt("truncated", **only)
  path.write_bytes(whole[: len(whole) // 2 // 512 * 512] + bytes(1024))  # With an end put to it.
  attempt("truncated", **only)
  path.write_bytes(archive({"n01440764.tar": archive(train["n01440764"])[:3000]}))
  attempt("n01440764.tar' is truncated", **only)
  path.write_bytes(archive({"picture.JPEG": b""}))
  attempt("expected tar files", **only)
  (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(archive({"val_1.JPEG": b""}))
  attempt("ILSVRC2012_val_00000001", splits=["validation"])
  assert cli.main(["prepare", "imagenet2012", f"--archives={tmp_path}"]) == 2
  assert "--any_size" in capsys.readouterr().err


def test_a_full_disk(tmp_path, archives, monkeypatch):
  usage = type("Usage", (), {"free": 100})
  monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage)
  with pytest.raises(InputError, match="too full"):
    imagenet.prepare(archives, data_dir=str(tmp_path), complete=False)
