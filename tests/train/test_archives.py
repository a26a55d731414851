"""Official archives of data sets with made content: prepared, read back, and refused if damaged."""

import gzip
import io
import itertools
import json
import pickle
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest

from bcos_jax import cli
from bcos_jax.convert.array_pickles import read_arrays
from bcos_jax.errors import InputError
from bcos_jax.train.data import open_dataset
from bcos_jax.train.data.archives import cifar, funny_birds, known, mail
from bcos_jax.train.data.text.sources import read_texts

from .test_mnist import idx

RANDOM = np.random.default_rng(0)


def packed(path, members):
  """Writes members, bytes by name, as a tar or zip archive, or as a folder."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path, "w") as archive:
      for name, content in members.items():
        archive.writestr(name, content)
  elif ".tar" in path.name or path.suffix == ".tgz":
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
      for name, content in members.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
  else:
    for name, content in members.items():
      (path / name).parent.mkdir(parents=True, exist_ok=True)
      (path / name).write_bytes(content)
  return path


def picture(pixels, kind="png"):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, format=kind)
  return file.getvalue()


def opened(content):
  return np.array(Image.open(io.BytesIO(content)))


def prepared(name, source, folder, *more):
  assert cli.main(["prepare", name, f"--source={source}", f"--data_dir={folder}", *more]) == 0


def refused(capsys, name, source, folder, *words):
  """Asserts that a source is refused in one line and a fix, and that nothing is written."""
  before = sorted(folder.rglob("*")) if folder.exists() else []
  assert cli.main(["prepare", name, f"--source={source}", f"--data_dir={folder}"]) == 2
  said = capsys.readouterr().err.strip().splitlines()
  said = [line for line in said if line.startswith(("error:", "  fix:"))]
  assert len(said) == 2 and all(word in said[0] for word in words), said
  after = sorted(folder.rglob("*")) if folder.exists() else []
  assert [path for path in after if path.is_file()] == [path for path in before if path.is_file()]


@pytest.fixture
def data(tmp_path, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  return tmp_path / "data"


# CIFAR.


def pixels(count):
  return RANDOM.integers(0, 256, (count, 3072), np.uint8)


def python_2(batch):
  """A pickle as Python 2 with NumPy wrote CIFAR's: text of bytes, arrays by their state."""

  def text(content):
    return b"T" + len(content).to_bytes(4, "little") + content

  def whole(number):
    return b"J" + number.to_bytes(4, "little", signed=True)

  array = batch["data"]
  shape = b"".join(map(whole, array.shape)) + b"\x86"
  kind = b"cnumpy\ndtype\n" + text(b"u1") + whole(0) + whole(1) + b"\x87R"
  kind += b"(" + whole(3) + text(b"|") + b"NNN" + whole(-1) * 2 + whole(0) + b"tb"
  made = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + whole(0) + b"\x85"
  made += (
    text(b"b") + b"\x87R(" + whole(1) + shape + kind + b"I00\n" + text(array.tobytes()) + b"tb"
  )
  numbers = b"](" + b"".join(map(whole, batch["labels"])) + b"e"
  return b"\x80\x02}(" + text(b"data") + made + text(b"labels") + numbers + b"u."


def cifar10(kind):
  """The members of an archive of CIFAR-10, and its pictures and labels by file."""
  files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
  batches = {name: (pixels(4), [3, 0, 9, i]) for i, name in enumerate(files)}
  names = [f"kind{i}" for i in range(10)]
  members = {}
  for name, (data, labels) in batches.items():
    if kind == "binary":
      rows = np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
      members[f"cifar-10-batches-bin/{name}.bin"] = rows.tobytes()
    elif kind == "python 2":
      members[f"cifar-10-batches-py/{name}"] = python_2({"data": data, "labels": labels})
    else:
      held = {b"data": data, b"labels": labels, b"filenames": [b"a.png"] * 4}
      members[f"cifar-10-batches-py/{name}"] = pickle.dumps(held, protocol=2)
  if kind == "binary":
    members["cifar-10-batches-bin/batches.meta.txt"] = "\n".join(names).encode() + b"\n\n"
  else:
    meta = {b"label_names": [name.encode() for name in names]}
    members["cifar-10-batches-py/batches.meta"] = pickle.dumps(meta, protocol=2)
  return members, batches


@pytest.mark.parametrize("kind", ["binary", "python 2", "python 3"])
def test_cifar10_is_read_as_its_archive_has_it(kind, tmp_path, data):
  members, batches = cifar10(kind)
  prepared("cifar10", packed(tmp_path / "cifar.tar.gz", members), data, "--any_size")
  found = open_dataset("cifar10", "test", str(data))
  assert found.label_names == tuple(f"kind{i}" for i in range(10)) and len(found) == 4
  images, labels = batches["test_batch"]
  records = sorted(found.source, key=lambda record: record["id"])
  for record, image, label in zip(records, images, labels, strict=True):
    np.testing.assert_array_equal(
      opened(record["image"]), image.reshape(3, 32, 32).transpose(1, 2, 0)
    )
    assert record["label"] == label
  assert len(open_dataset("cifar10", "train", str(data))) == 20


def test_cifar100_has_both_labels(tmp_path, data):
  rows = np.concatenate([np.array([[1, 99], [19, 0]], np.uint8), pixels(2)], axis=1).tobytes()
  fine, coarse = (
    "\n".join(f"{kind}{i}" for i in range(n)).encode() for kind, n in (("f", 100), ("c", 20))
  )
  members = {
    "cifar-100-binary/train.bin": rows,
    "cifar-100-binary/test.bin": rows,
    "cifar-100-binary/fine_label_names.txt": fine,
    "cifar-100-binary/coarse_label_names.txt": coarse,
  }
  prepared("cifar100", packed(tmp_path / "unpacked", members), data, "--any_size")
  found = open_dataset("cifar100", "train", str(data))
  records = sorted(found.source, key=lambda record: record["id"])
  assert [(one["label"], one["coarse_label"]) for one in records] == [(99, 1), (0, 19)]
  assert found.label_names[99] == "f99"


def test_bad_archives_of_cifar(tmp_path, data, capsys):
  members, _ = cifar10("binary")
  path = packed(tmp_path / "small.tar.gz", members)
  refused(capsys, "cifar10", path, data, "4 pictures", "10,000")
  whole = path.read_bytes()
  (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
  refused(capsys, "cifar10", tmp_path / "cut.tar.gz", data, "truncated")
  refused(capsys, "cifar100", path, data, "holds neither test.bin nor test")
  refused(capsys, "cifar10", tmp_path / "none.tar.gz", data, "No file or folder")
  name = "cifar-10-batches-bin/test_batch.bin"
  bad = {**members, name: b"\x0a" + members[name][1:]}
  for case, content, word in (("label", bad[name], "expected 0 to 9"), ("row", b"12", "multiple")):
    folder = packed(tmp_path / case, {**members, name: content})
    with pytest.raises(InputError, match=word):
      cifar.prepare("cifar10", folder, data_dir=str(data), complete=False)
  assert not data.exists()


def test_pickles_execute_nothing():
  assert read_arrays(pickle.dumps({"a": [1, (2, "b")]}, protocol=2), "x") == {"a": [1, (2, "b")]}
  array = np.arange(6, dtype=np.int64).reshape(2, 3)
  for order in (array, np.asfortranarray(array)):
    np.testing.assert_array_equal(read_arrays(pickle.dumps(order, protocol=2), "x"), array)
  with pytest.raises(InputError, match=r"posix\.system"):
    read_arrays(b"cposix\nsystem\n(S'true'\ntR.", "x")
  with pytest.raises(InputError, match="truncated"):
    read_arrays(pickle.dumps([array], protocol=2)[:40], "x")
  with pytest.raises(InputError, match="truncated or no pickle"):
    read_arrays(pickle.dumps(np.array([1j]), protocol=2), "x")


# EMNIST.


def test_emnist_letters(tmp_path, data, capsys):
  images, labels = RANDOM.integers(0, 256, (5, 28, 28), np.uint8), np.arange(1, 6, dtype=np.uint8)
  members = {
    f"gzip/emnist-letters-{split}-{what}-ubyte.gz": gzip.compress(idx(array))
    for split in ("train", "test")
    for what, array in (("images-idx3", images), ("labels-idx1", labels))
  }
  path = packed(tmp_path / "gzip.zip", members)
  prepared("emnist/letters", path, data, "--any_size")
  found = open_dataset("emnist/letters", "test", str(data))
  third = next(record for record in found.source if record["label"] == 3)
  np.testing.assert_array_equal(opened(third["image"]), images[2])
  assert len(found.label_names) == 37
  other = tmp_path / "other"
  refused(capsys, "emnist/letters", path, other, "5 pictures of train", "88,800")
  refused(capsys, "emnist/digits", path, other, "no 'emnist-digits-train")
  refused(capsys, "emnist/leters", path, other, "'emnist/leters'")


# Mail.

SPAM = """From: a@b.c
Subject: Cheap  watches
Content-Type: text/html; charset=utf-8

<html><style>p {}</style><p>Buy&nbsp;now</p></html>
"""


def test_mail_becomes_texts(tmp_path, data, capsys):
  members = {}
  for group, label in mail.LABELS.items():
    for i in range(20):
      ham = f"Subject: Hi {i}\n\nSee you in {group}.\n"
      raw = ham if label == "ham" else SPAM.replace("Buy", f"Buy {i}" if i else "Buy")
      content = json.dumps({"id": i, "text": raw}).encode()
      members[f"package/data/{group}/{i:03}.json"] = content
  path = packed(tmp_path / "mail.tgz", members)
  prepared("spam_assassin", path, data)
  parts = [read_texts(data / "spam_assassin" / f"{split}.jsonl") for split in ("train", "test")]
  assert sum(map(len, parts)) == 100 and parts[0].label_names == ("ham", "spam")
  texts = [set(part.texts) for part in parts]
  assert not texts[0] & texts[1]
  assert "Cheap watches\nBuy now" in texts[0] | texts[1]
  assert "From: a@b.c" in mail.read_mail(SPAM)[1]
  cut = packed(tmp_path / "cut.tgz", {k: v for k, v in members.items() if "hard" not in k})
  refused(capsys, "spam_assassin", cut, tmp_path / "other", "hard-ham-1")
  members["package/data/spam-1/000.json"] = b"{}"
  bad = packed(tmp_path / "bad.tgz", members)
  refused(capsys, "spam_assassin", bad, tmp_path / "other", "000.json", "no JSON with a text")


# Marked objects.


def voc(masks=(20, 30), kind="dog"):
  image = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
  segments = np.zeros(masks, np.uint8)
  segments[2:8, 3:9], segments[10:12] = 12, 255
  boxes = f"""<annotation><object><name>{kind}</name><bndbox><xmin>4</xmin><ymin>3</ymin>
    <xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"""
  root = "VOCdevkit/VOC2012"
  return {
    f"{root}/ImageSets/Main/train.txt": b"2007_1\n",
    f"{root}/ImageSets/Main/val.txt": b"2007_1\n",
    f"{root}/ImageSets/Segmentation/train.txt": b"2007_1\n",
    f"{root}/ImageSets/Segmentation/val.txt": b"2007_1\n",
    f"{root}/JPEGImages/2007_1.jpg": picture(image, "jpeg"),
    f"{root}/Annotations/2007_1.xml": boxes.encode(),
    f"{root}/SegmentationClass/2007_1.png": picture(segments),
  }


@pytest.mark.parametrize("name", ["voc_boxes", "voc_masks"])
def test_voc(name, tmp_path, data):
  prepared(name, packed(tmp_path / "voc.tar", voc()), data)
  found = open_dataset(name, "val", str(data))
  (record,) = found.source
  assert found.label_names[record["label"]] == "dog"
  expected = np.zeros((20, 30), np.uint8)
  expected[2:8, 3:9] = 1
  np.testing.assert_array_equal(opened(record["mask"]), expected)
  assert np.array(record["boxes"]).tolist() == [[2, 3, 8, 9]]
  assert opened(record["image"]).shape == (20, 30, 3)


def test_bad_archives_of_voc(tmp_path, data, capsys):
  wrong = packed(tmp_path / "size.tar", voc(masks=(20, 31)))
  refused(capsys, "voc_masks", wrong, data, "31 x 20", "30 x 20")
  other = packed(tmp_path / "kind.tar", voc(kind="yak"))
  refused(capsys, "voc_boxes", other, data, "'yak'")
  members = voc()
  members["VOCdevkit/VOC2012/Annotations/2007_1.xml"] = b"<annotation><obj"
  refused(capsys, "voc_boxes", packed(tmp_path / "xml.tar", members), data, "no list of boxes")
  del members["VOCdevkit/VOC2012/JPEGImages/2007_1.jpg"]
  refused(capsys, "voc_boxes", packed(tmp_path / "less.tar", members), data, "2007_1.jpg")


def coco(**changed):
  thing = {"image_id": 7, "category_id": 90, "bbox": [2.5, 1, 4, 3.2], "iscrowd": 0}
  runs = np.zeros((12, 10), int)
  runs[0:2, 8] = 1
  flat = runs.T.reshape(-1)
  counts = [sum(1 for _ in group) for _, group in itertools.groupby([0, *flat])]
  counts[0] -= 1
  things = [
    {**thing, "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]},
    {**thing, "bbox": [8, 0, 1, 2], "segmentation": {"size": [12, 10], "counts": counts}},
    {**thing, "category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 2]], "bbox": [0, 0, 3, 3]},
  ]
  held = {
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
    "images": [{"id": 7, "file_name": "000007.jpg", "height": 12, "width": 10}],
    "annotations": things,
  }
  return json.dumps({**held, **changed}).encode()


def test_coco(tmp_path, data, capsys):
  image = picture(np.full((12, 10, 3), 99, np.uint8), "jpeg")
  folder = tmp_path / "coco"
  folder.mkdir()
  packed(folder / "val2017.zip", {"val2017/000007.jpg": image})
  listed = "annotations/instances_val2017.json"
  packed(folder / "annotations_trainval2017.zip", {listed: coco()})
  for name in ("coco_boxes", "coco_masks"):
    prepared(name, folder, data)
    found = open_dataset(name, "val", str(data))
    assert found.label_names == ("car", "toothbrush")
    car, brush = sorted(found.source, key=lambda record: record["label"])
    assert np.array(brush["boxes"]).tolist() == [[1, 2, 5, 7], [0, 8, 2, 9]] and car["label"] == 0
    expected = np.zeros((12, 10), np.uint8)
    expected[1:5, 2:7] = 1
    expected[0:2, 8] = 1
    np.testing.assert_array_equal(opened(brush["mask"]), expected)
  for changed, word in (({"images": []}, "does not list"), ({"categories": []}, "no COCO")):
    unpacked = tmp_path / word
    packed(unpacked, {listed: coco(**changed), "val2017/000007.jpg": image})
    refused(capsys, "coco_masks", unpacked, tmp_path / "other", word)
  packed(tmp_path / "no", {listed: coco()})
  refused(capsys, "coco_boxes", tmp_path / "no", tmp_path / "other", "000007.jpg")


def test_imagenet_s(tmp_path, data, capsys):
  segments = np.zeros((8, 9, 3), np.uint8)
  segments[1:3, 2:5, 0] = 2
  segments[5:, :, 0], segments[5:, :, 1] = 1000 % 256, 1000 // 256
  first = np.uint8(segments == 2)
  picture_of = picture(np.full((8, 9, 3), 7, np.uint8), "jpeg")
  members = {
    "ImageNetS50/validation/n01/a.JPEG": picture_of,
    "ImageNetS50/validation/n02/b.JPEG": picture_of,
    "ImageNetS50/validation-segmentation/n01/a.png": picture(first),
    "ImageNetS50/validation-segmentation/n02/b.png": picture(segments),
  }
  prepared("imagenet_s", packed(tmp_path / "s.zip", members), data)
  found = open_dataset("imagenet_s", "validation", str(data))
  assert found.label_names == ("n01", "n02")
  assert sorted(record["label"] for record in found.source) == [0, 1]
  for record in found.source:
    assert (
      np.array(record["boxes"]).tolist() == [[1, 2, 3, 5]] and opened(record["mask"]).sum() == 6
    )
  segments[0, 0, 0] = 9
  members["ImageNetS50/validation-segmentation/n02/b.png"] = picture(segments)
  bad = packed(tmp_path / "bad.zip", members)
  refused(capsys, "imagenet_s", bad, tmp_path / "other", "the class 9", "1 to 2")


# FunnyBirds.


def birds(count=2, side=16):
  """A folder as of FunnyBirds, of two parts, in small."""
  parts = {"beak": [{"model": "a"}, {"model": "b"}], "wing": [{"model": "a"}, {"model": "b"}]}
  classes = [{"class_idx": i, "parts": {"beak": i, "wing": j}} for i, j in ((0, 0), (1, 0))]
  members = {
    "FunnyBirds/parts.json": json.dumps(parts).encode(),
    "FunnyBirds/classes.json": json.dumps(classes).encode(),
  }
  for split in ("train", "test"):
    listed = [{"class_idx": i % 2, "bg_objects": "1,2"} for i in range(count)]
    members[f"FunnyBirds/dataset_{split}.json"] = json.dumps(listed).encode()
    for i in range(count):
      place = f"{i % 2}/{i:06}"
      whole = np.full((side, side, 4), 250, np.uint8)
      members[f"FunnyBirds/{split}/{place}.png"] = picture(whole)
      if split == "train":
        continue
      found = np.zeros((side, side, 4), np.uint8)
      found[..., 3] = 255
      found[2:4, 2:6, :3], found[8:12, 8:12, :3] = (255, 255, 0), (0, 255, 2)
      found[0, 0, :3] = 204
      members[f"FunnyBirds/test_part_map/{place}.png"] = picture(found)
      folder = f"FunnyBirds/test_interventions/{place}"
      for n, kept in enumerate(("", "beak", "wing", "beak_wing")):
        whole[..., 0] = 10 * n
        members[f"{folder}/body_{kept}.png"] = picture(whole)
      members[f"{folder}/background_interventions/0.png"] = picture(whole)
  return members


def test_funny_birds(tmp_path, data, capsys):
  path = packed(tmp_path / "FunnyBirds.zip", birds())
  prepared("funny_birds", path, data)
  found = open_dataset("funny_birds", "test", str(data))
  assert {record["label"] for record in found.source} == {0, 1} and len(found.label_names) == 2
  assert opened(found.source[0]["mask"]).sum() == 8 + 16
  scenes = funny_birds.read_scenes(path, 5, side=16)
  assert len(scenes) == 2 and scenes.part_names == ("beak", "wing")
  assert scenes.pictures[1, :, 0, 0, 0].tolist() == [0, 10, 20, 30]
  assert scenes.masks.sum(axis=(2, 3)).tolist() == [[8, 16]] * 2
  assert scenes.thing_masks.sum() == 2 and scenes.classes.tolist() == [[0, 0], [1, 0]]
  members = birds()
  members["FunnyBirds/dataset_test.json"] = json.dumps([{"class_idx": 2}]).encode()
  bad = packed(tmp_path / "bad.zip", members)
  refused(capsys, "funny_birds", bad, tmp_path / "other", "do not fit its 2 classes")
  with pytest.raises(InputError, match="body_beak"):
    less = {k: v for k, v in birds().items() if "body_beak.png" not in k}
    funny_birds.read_scenes(packed(tmp_path / "less", less), 5, side=16)


def test_the_command_knows_every_reader():
  assert set(cli.training.PREPARED) == set(known.PREPARED)
