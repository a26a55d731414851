"""Picture folders: tables, held-out pictures, class balance, and several labels."""

import contextlib
import errno
import io
import itertools
import os

import jax
import numpy as np
from PIL import Image
import pytest
from sklearn import metrics as sklearn_metrics

from bcos_jax.errors import InputError, RunError
from bcos_jax.inputs import Preprocess
from bcos_jax.train import loop
from bcos_jax.train.config import load_config
from bcos_jax.train.data import augment, folders, open_splits, pipeline
from bcos_jax.train.evaluation import evaluate


def write(folder, names, side=8):
  """Writes a picture of its own colour under each name."""
  for i, name in enumerate(names):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), 10 * i % 256, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    path.write_bytes(buffer.getvalue())


def pictures(**counts):
  return [f"{label}/{i}.png" for label, count in counts.items() for i in range(count)]


def read(folder, **options):
  return folders.read_folder(folder, **options)


def label_of(found, name):
  return [found.label_names[i] for i in found.labels[name]]


def test_a_folder_per_class(tmp_path):
  names = ["cat/a.PNG", "cat/deep er/ü b.jpeg", "cat/no_suffix", "dog/x.y.png", "dog/z.webp"]
  write(tmp_path, names)
  (tmp_path / "cat/notes.txt").write_text("no picture")
  (tmp_path / "cat/README").write_text("no picture")
  (tmp_path / "cat/.hidden.png").write_text("passed over")
  (tmp_path / ".git/x").mkdir(parents=True)
  found = read(tmp_path)
  assert found.label_names == ("cat", "dog") and not found.multi_label and found.ignored == 2
  assert sorted(found.train + found.held_out) == sorted(names)
  assert [label_of(found, name)[0] for name in names] == ["cat"] * 3 + ["dog"] * 2
  dataset = found.dataset("train")
  record = dataset.source[0]
  assert record["image"] == (tmp_path / record["name"]).read_bytes()
  assert dataset.label_names[record["label"]] == record["name"].split("/")[0]


@pytest.mark.parametrize("test", ["val", "Validation", "test"])
def test_a_folder_that_is_split(tmp_path, test):
  write(tmp_path, [f"{part}/{name}" for part in ("train", test) for name in pictures(a=3, b=2)])
  found = read(tmp_path)
  assert found.label_names == ("a", "b")
  assert len(found.train) == len(found.held_out) == 5
  assert {name.split("/")[0] for name in found.held_out} == {test}
  write(tmp_path, [f"{test}/c/0.png"])
  with pytest.raises(InputError, match="classes 'c'"):
    read(tmp_path)


def test_a_training_folder_alone_is_split(tmp_path):
  write(tmp_path, [f"train/{name}" for name in pictures(a=10, b=10)])
  assert [len(part) for part in (read(tmp_path).train, read(tmp_path).held_out)] == [16, 4]


def test_classes_called_train_and_car(tmp_path):
  write(tmp_path, pictures(train=4, car=4))
  assert read(tmp_path).label_names == ("car", "train")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_every_class_is_on_both_sides(tmp_path, share):
  counts = {"a": 2, "b": 3, "c": 10, "d": 37}
  labels = {name: ("abcd".index(name[0]),) for name in pictures(**counts)}
  train, test = folders.split(labels, share)
  assert sorted(train + test) == sorted(labels)
  for label, count in counts.items():
    held_out = sum(name.startswith(label) for name in test)
    assert held_out == min(max(round(share * count), 1), count - 1)


def test_the_split_depends_on_names_alone():
  labels = dict.fromkeys(pictures(a=40), (0,))
  backwards = dict(reversed(labels.items()))
  assert folders.split(labels, 0.3) == folders.split(backwards, 0.3)
  assert folders.split(labels, 0.3)[1] != sorted(labels)[:12]


def test_several_labels_are_split_by_class():
  rng = np.random.default_rng(0)
  table = rng.random((60, 4)) < (0.05, 0.2, 0.4, 0.8)
  labels = {str(i): tuple(np.flatnonzero(row)) for i, row in enumerate(table)}
  train, test = folders.split(labels, 0.25)
  assert sorted(train + test) == sorted(labels)
  for label in range(4):
    counts = [sum(label in labels[name] for name in part) for part in (train, test)]
    assert min(counts) >= 1 and 0.1 < counts[1] / sum(counts) < 0.5


def test_small_and_empty_classes_are_told(tmp_path):
  write(tmp_path, pictures(a=3, b=3, single=1))
  (tmp_path / "empty").mkdir()
  with pytest.warns(UserWarning) as told:
    found = read(tmp_path)
  text = " ".join(str(warning.message) for warning in told)
  assert "hold no pictures: the classes 'empty'" in text and "not evaluated" in text
  assert "'single'" in text and found.label_names == ("a", "b", "single")
  assert "single/0.png" in found.train


@pytest.mark.parametrize(
  "names, message",
  [
    ([], "holds no pictures"),
    (["a.png", "b/0.png"], "in no folder of a class: 'a.png'"),
    (["a/0.png", "a/1.png"], "1 classes: 'a'"),
    (["a/0.png", "b/0.png"], "no pictures to evaluate on"),
  ],
)
def test_folders_that_cannot_be_used(tmp_path, names, message):
  write(tmp_path, names)
  with pytest.raises(InputError, match=message):
    read(tmp_path)
  with pytest.raises(InputError, match="No folder"):
    read(tmp_path / "elsewhere")


def table(folder, text, name="labels.csv"):
  (folder / name).write_text(text, encoding="utf-8")
  return read(folder, labels=name)


@pytest.mark.parametrize("name, mark", [("t.csv", ","), ("t.tsv", "\t")])
@pytest.mark.parametrize("heading", [True, False])
def test_a_table_of_labels(tmp_path, name, mark, heading):
  write(tmp_path, ["x/0.png", "x/1.png", "2, too.png", "3.png", "unlabelled.png"])
  rows = [("x/0.png", "a"), ("x/1.png", "b"), ('"2, too.png"', "a"), ("3.png", "b")]
  rows = [("file", "label")] * heading + rows
  found = table(tmp_path, "\ufeff" + "\r\n".join(mark.join(row) for row in rows), name)
  assert found.label_names == ("a", "b") and not found.multi_label
  assert label_of(found, "2, too.png") == ["a"] and len(found.labels) == 4


def test_a_table_of_several_labels(tmp_path):
  write(tmp_path, [f"{i}.png" for i in range(6)])
  found = table(tmp_path, "0.png,a|b\n1.png,b; a\n2.png,b\n3.png,a\n4.png,\n5.png,\n")
  assert found.multi_label and found.label_names == ("a", "b")
  rows = {}
  for split in ("train", "test"):
    dataset = found.dataset(split)
    assert dataset.multi_label
    examples = pipeline.Examples(dataset, Preprocess(size=(8, 8), resize=0))
    for i in range(len(dataset)):
      label = examples[i]["label"]
      assert label.dtype == np.float32
      rows[dataset.source[i]["name"]] = tuple(label)
  assert rows == dict(
    zip(
      (f"{i}.png" for i in range(6)), [(1, 1), (1, 1), (0, 1), (1, 0), (0, 0), (0, 0)], strict=True
    )
  )


@pytest.mark.parametrize(
  "text, message",
  [
    ("0.png,a\nno.png,b", "1 of 2 files .* 'no.png'"),
    ("0.png,a\n1.png,b\n0.png,b", "names '0.png' in lines 1 and 3"),
    ("0.png,a\n1.png,", "no label in line 2"),
    ("0.png,a\n1.png", "Line 2"),
    ("", "0 of 0 files"),
  ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
  write(tmp_path, ["0.png", "1.png"])
  with pytest.raises(InputError, match=message):
    table(tmp_path, text)
  with pytest.raises(InputError, match="No table of labels"):
    read(tmp_path, labels="elsewhere.csv")


def test_unreadable_pictures(tmp_path):
  write(tmp_path, pictures(a=4, b=4))
  (tmp_path / "a/0.png").write_bytes(b"no picture")
  dataset = read(tmp_path).dataset("train" if "a/0.png" in read(tmp_path).train else "test")
  prepare = Preprocess(size=(8, 8), resize=0)
  index = [dataset.source[i]["name"] for i in range(len(dataset))].index("a/0.png")
  with pytest.raises(InputError, match=r"'a/0\.png'"):
    pipeline.Examples(dataset, prepare)[index]
  skipping = pipeline.Examples(dataset, prepare, skip_damaged=True)
  if len(dataset) > 1:
    with pytest.warns(UserWarning, match=r"'a/0\.png'"):
      assert skipping[index]["damaged"] == 1
  (tmp_path / "a/0.png").unlink()
  with pytest.raises(RunError, match="No such file"):
    pipeline.Examples(dataset, prepare)[index]


def test_weights():
  labels = np.array([0, 0, 0, 1])
  np.testing.assert_array_equal(folders.class_weights(labels, 0.0), np.ones(4))
  np.testing.assert_allclose(folders.class_weights(labels, 1.0), [1 / 3, 1 / 3, 1 / 3, 1])
  several = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], np.uint8)
  np.testing.assert_allclose(folders.class_weights(several, 1.0), [1 / 3, 1, 1 / 3, 1])


def test_draws_are_a_function_of_the_position():
  labels = np.repeat([0, 1, 2], [80, 15, 5])
  draw = pipeline.Draw(folders.class_weights(labels, 1.0), seed=3)
  epochs = [draw.epoch(i) for i in range(3)]
  for drawn in epochs:
    counts = np.bincount(drawn, minlength=100)
    exact = 100 / 3 / np.repeat([80, 15, 5], [80, 15, 5])
    assert (np.abs(counts - exact) < 1).all()
    assert np.abs(np.bincount(labels[drawn]) - 100 / 3).max() < 2
  assert not np.array_equal(epochs[0], epochs[1])
  positions = [217, 3, 105, 216]
  again = pipeline.Draw(folders.class_weights(labels, 1.0), seed=3)
  assert [again(p) for p in positions] == [np.concatenate(epochs)[p] for p in positions]
  even = pipeline.Draw(np.ones(100), seed=0).epoch(5)
  assert sorted(even) == list(range(100))


def test_balanced_batches_resume_and_split(tmp_path):
  write(tmp_path, pictures(a=24, b=4))
  examples = pipeline.Examples(
    read(tmp_path).dataset("train"), Preprocess(size=(8, 8), resize=0), keep=True
  )

  def take(count, **fields):
    batches = pipeline.train_batches(
      examples, augment.Shift(examples.prepare), batch_size=8, seed=1, balance=1.0, **fields
    )
    with contextlib.closing(iter(batches)) as iterator:
      return [jax.tree.map(np.array, next(iterator)) for _ in range(count)]

  whole = take(9)
  labels = np.concatenate([batch["label"] for batch in whole])
  assert 0.4 < labels.mean() < 0.6
  for a, b in zip(whole[7:], take(2, start_step=7), strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)
  shares = [take(9, process_index=i, process_count=2) for i in range(2)]
  joined = np.stack([[b["label"] for b in share] for share in shares], -1).reshape(9, 8)
  np.testing.assert_array_equal(joined, [batch["label"] for batch in whole])


def test_average_precision_is_scikit_learns():
  rng = np.random.default_rng(0)
  labels = (rng.random((50, 4)) < 0.3).astype(np.float32)
  for scores in (rng.normal(size=(50, 4)), rng.integers(3, size=(50, 4)).astype(float)):
    ours = evaluate.mean_average_precision(scores, labels)
    assert ours == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))
  labels[:, 2] = 0  # No positive: left out.
  kept = [0, 1, 3]
  assert evaluate.mean_average_precision(scores, labels) == pytest.approx(
    sklearn_metrics.average_precision_score(labels[:, kept], scores[:, kept])
  )


def recipe(folder, *overrides):
  fields = {
    "data.folder": folder,
    "data.damaged": "skip",
    "data.batch_size": 8,
    "data.eval_batch_size": 8,
    "data.image_size": 16,
    "data.cache": "true",
    "steps": 3,
    "eval_every": 2,
    "loss.name": "bce",
    "loss.eval_name": "bce",
    "model.name": "resnet_tiny",
    "mesh.data": 1,
  }
  given = [f"--config.{key}={value}" for key, value in fields.items()]
  return load_config("digits:scratch", [*given, *overrides])


@pytest.mark.slow
def test_training_on_several_labels(tmp_path):
  names = [f"{i}.png" for i in range(21)]
  write(tmp_path / "data", names)
  labels = itertools.cycle(["a|b", "b", "a|c", ""])
  (tmp_path / "data/labels.csv").write_text(
    "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=False))
  )
  overrides = ["--config.model.num_classes=3", "--config.data.labels=labels.csv"]
  config = recipe(tmp_path / "data", *overrides, "--config.data.balance=0.5")
  result = loop.train(config, workdir=tmp_path / "run", progress=False)
  assert result.labels == ("a", "b", "c") and [row["step"] for row in result.history] == [2, 3]
  pictures = folders.read_folder(tmp_path / "data", labels="labels.csv").dataset("test")
  examples = pipeline.Examples(pictures, result.preprocess)
  images, targets = pipeline.to_arrays(examples)
  logits = np.asarray(
    result.model.apply(jax.device_get(result.variables), result.model.ops.encoding(images))
  )
  last = result.history[-1]
  assert last["count"] == len(images)
  assert last["accuracy"] == pytest.approx(np.mean(((logits > 0) == targets).all(1)))
  assert last["mean_average_precision"] == pytest.approx(
    sklearn_metrics.average_precision_score(targets, logits), rel=1e-4
  )
  with pytest.raises(InputError, match="cross_entropy"):
    loop.train(
      recipe(tmp_path / "data", *overrides, "--config.loss.name=cross_entropy"),
      workdir=tmp_path / "other",
      progress=False,
    )
  with pytest.raises(InputError, match="num_classes=3"):
    loop.train(recipe(tmp_path / "data", overrides[1]), workdir=tmp_path / "o", progress=False)


def test_a_folder_that_is_split_itself_holds_out_its_own_share(tmp_path):
  write(tmp_path, [f"{part}/{name}" for part in ("train", "val") for name in pictures(a=2, b=2)])
  train, test = open_splits(recipe(tmp_path).data)
  assert len(train) == len(test) == 4
  with pytest.raises(InputError, match=r"data\.held_out=0\.5 does nothing"):
    open_splits(recipe(tmp_path, "--config.data.held_out=0.5").data)


def test_balance_wants_a_folder():
  with pytest.raises(InputError, match=r"data\.balance=1.*data\.folder"):
    load_config("digits:scratch", ["--config.data.balance=1"])


@pytest.mark.skipif(os.name == "nt", reason="names that are no text exist on POSIX alone")
def test_names_that_are_no_text(tmp_path):
  write(tmp_path, pictures(a=3, b=3))
  os.rename(tmp_path / "a/0.png", os.fsencode(tmp_path / "a") + b"/\xff.png")
  found = read(tmp_path)
  assert len(found.train + found.held_out) == 6


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
  from bcos_jax.io import pictures

  (tmp_path / "open").mkdir()
  (tmp_path / "locked").mkdir()
  scandir = os.scandir

  def locked(path):  # the superuser may read everything, so permissions would not do
    if os.fspath(path).endswith("locked"):
      raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", locked)
  with pytest.raises(InputError, match=r"Cannot read the folder '.*locked': Permission denied"):
    pictures.find_pictures(tmp_path)
