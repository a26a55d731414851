"""Unlabelled pictures: files and shards, splits by name, random access."""

import io
import pickle
import tarfile

import numpy as np
from PIL import Image
import pytest

from bcos_jax import InputError
from bcos_jax.train.data import pipeline, unlabelled


def picture(shade: int, kind: str = "PNG") -> bytes:
  file = io.BytesIO()
  Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, kind)
  return file.getvalue()


def shard(path, members: dict[str, bytes], mode: str = "w") -> None:
  with tarfile.open(path, mode) as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
  """Twelve pictures: two files, and five in each of two shards, beside their captions."""
  (tmp_path / "deep").mkdir()
  (tmp_path / "0.png").write_bytes(picture(0))
  (tmp_path / "deep" / "1.png").write_bytes(picture(1))
  (tmp_path / "deep" / "README.txt").write_text("not a picture")
  for number in (0, 1):
    members = {}
    for i in range(5):
      shade = 2 + 5 * number + i
      members[f"{shade:05}.png"] = picture(shade)
      members[f"{shade:05}.txt"] = b"a grey square"
      members[f"{shade:05}.json"] = b"{}"
    shard(tmp_path / f"{number:05}.tar", members)
  return tmp_path


def shades(dataset) -> list[int]:
  images = [Image.open(io.BytesIO(dataset.source[i]["image"])) for i in range(len(dataset))]
  return [np.asarray(image)[0, 0, 0] for image in images]


def test_every_picture_is_found_once_and_split_by_name(folder):
  train, test = unlabelled.read_unlabelled(folder, held_out=0.25)
  assert (len(train), len(test)) == (9, 3)
  assert sorted(shades(train) + shades(test)) == list(range(12))
  assert train.label_names == () and train.source[0]["label"] == 0
  # A picture more moves no other to the other side, but for one of the share.
  (folder / "another.png").write_bytes(picture(200))
  again, _ = unlabelled.read_unlabelled(folder, held_out=0.25)
  assert len(set(shades(train)) - set(shades(again))) <= 1
  copied = pickle.loads(pickle.dumps(train.source))
  assert copied[3] == train.source[3]


def test_they_are_read_as_other_pictures_are(folder):
  train, _ = unlabelled.read_unlabelled(folder, held_out=0.1)
  examples = pipeline.Examples(train, lambda image: np.asarray(image, np.float32) / 255)
  assert examples[4]["image"].shape == (8, 8, 3)
  (folder / "broken.tar").unlink(missing_ok=True)
  shard(folder / "broken.tar", {"x.png": b"not a picture"})
  train, test = unlabelled.read_unlabelled(folder, held_out=0.1)
  both = [pipeline.Examples(part, lambda image: np.asarray(image)) for part in (train, test)]
  with pytest.raises(InputError, match=r"broken\.tar at byte 512.*not a picture"):
    for part in both:
      for i in range(len(part)):
        part[i]


def test_bad_folders_are_refused(folder, tmp_path):
  for share in (0, 1, -0.5):
    with pytest.raises(InputError, match=f"held_out={share}"):
      unlabelled.read_unlabelled(folder, held_out=share)
  with pytest.raises(InputError, match="No folder"):
    unlabelled.read_unlabelled(tmp_path / "nowhere", held_out=0.1)
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="holds 0 pictures"):
    unlabelled.read_unlabelled(tmp_path / "empty", held_out=0.1)


def test_broken_and_compressed_shards_are_refused(folder):
  whole = (folder / "00000.tar").read_bytes()
  (folder / "00000.tar").write_bytes(whole[: 512 + 20])
  with pytest.raises(InputError, match=r"00000\.tar'"):
    unlabelled.read_unlabelled(folder, held_out=0.1)
  (folder / "00000.tar").unlink()
  shard(folder / "00002.tar.gz", {"a.png": picture(1)}, "w:gz")
  with pytest.raises(InputError, match="compressed") as error:
    unlabelled.read_unlabelled(folder, held_out=0.1)
  assert "Decompress" in error.value.fix
