"""The digits, and batches that are a pure function of the step."""

import contextlib
import io
import os
import pathlib
import shutil

import jax
import numpy as np
from PIL import Image
import pytest
from sklearn import datasets as sklearn_datasets

from bcos_jax.cache import cache_folder
from bcos_jax.errors import InputError
from bcos_jax.inputs import Preprocess
from bcos_jax.train import sharding
from bcos_jax.train.data import augment, digits, pipeline, sources
from bcos_jax.train.evaluation import evaluate

from ..common import suggestion


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  sources.open_dataset("digits", "train", str(folder))
  return str(folder)


def examples(data_dir, split="train", size=8, **fields):
  dataset = sources.open_dataset("digits", split, data_dir)
  return pipeline.Examples(dataset, Preprocess(size=(size, size), resize=0), **fields)


def take(count, examples, **fields):
  fields = {"batch_size": 32, "seed": 1} | fields
  batches = pipeline.train_batches(examples, augment.Shift(examples.prepare), **fields)
  with contextlib.closing(iter(batches)) as iterator:
    return [jax.tree.map(np.array, next(iterator)) for _ in range(count)]


def assert_same(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    jax.tree.map(np.testing.assert_array_equal, batch, other)


def test_digits_are_scikit_learns(data_dir):
  bunch = sklearn_datasets.load_digits()
  images, labels = zip(
    *(pipeline.to_arrays(examples(data_dir, split)) for split in ("train", "test")), strict=True
  )
  assert [len(part) for part in labels] == [1442, 355]
  assert set(np.concatenate(images).ravel() * 255) <= set(range(256))

  def multiset(images, labels):
    rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    return rows[np.lexsort(rows.T)]

  gray = np.concatenate(images)[..., 0] * 255 / (255 / 16)
  assert np.abs(gray - np.round(gray)).max() < 0.04  # Each of 17 levels, rounded to a byte.
  np.testing.assert_array_equal(
    multiset(np.round(gray), np.concatenate(labels)), multiset(bunch.images, bunch.target)
  )


def test_split_is_stratified(data_dir):
  mask = digits.test_mask(sklearn_datasets.load_digits().target)
  for digit in range(10):
    share = mask[sklearn_datasets.load_digits().target == digit].mean()
    assert abs(share - 0.2) < 0.01


def test_decoding_gives_color_in_the_unit_range(data_dir):
  example = examples(data_dir, size=32)[0]
  assert example["image"].shape == (32, 32, 3) and example["image"].dtype == np.float32
  assert 0 <= example["image"].min() and example["image"].max() <= 1
  np.testing.assert_array_equal(example["image"][..., 0], example["image"][..., 2])
  pixels = Image.open(io.BytesIO(examples(data_dir).dataset.source[0]["image"]))
  resized = np.asarray(pixels.resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
  np.testing.assert_array_equal(example["image"][..., 0], resized)


def test_kept_examples_are_the_same(data_dir):
  once, kept = examples(data_dir), examples(data_dir, keep=True)
  assert_same(take(3, once), take(3, kept))
  assert_same(take(3, once), take(3, kept))


def test_an_epoch_has_every_example_once(data_dir):
  small = sources.open_dataset("digits", "train[:96]", data_dir)
  small = pipeline.Examples(small, Preprocess(size=(8, 8), resize=0))
  images, _ = pipeline.to_arrays(small)
  batches = pipeline.train_batches(small, augment.Shift(small.prepare, 0.0), batch_size=24, seed=0)
  with contextlib.closing(iter(batches)) as iterator:
    seen = np.concatenate([next(iterator)["image"] for _ in range(8)])

  def order(part):
    return [int(np.flatnonzero((images == image).all((1, 2, 3)))[0]) for image in part]

  first, second = order(seen[:96]), order(seen[96:])
  assert sorted(first) == sorted(second) == sorted(order(images)) and first != second


def test_position_is_a_function_of_the_step(data_dir):
  ex = examples(data_dir)
  batches = take(50, ex)  # More than one epoch.
  assert_same(batches[47:], take(3, ex, start_step=47))
  with pytest.raises(AssertionError):
    assert_same(batches[:3], take(3, ex, seed=2))


@pytest.mark.parametrize("count", [2, 4])
def test_data_do_not_depend_on_the_process_count(data_dir, count):
  ex = examples(data_dir)
  shares = [take(3, ex, process_index=i, process_count=count) for i in range(count)]
  for step, batch in enumerate(take(3, ex)):
    joined = jax.tree.map(lambda *parts: np.stack(parts, 1), *[share[step] for share in shares])
    joined = {name: x.reshape(-1, *x.shape[2:]) for name, x in joined.items()}
    assert_same([batch], [joined])


def test_data_do_not_depend_on_the_worker_count(data_dir):
  ex = examples(data_dir)
  assert_same(take(3, ex, start_step=5), take(3, ex, start_step=5, workers=1))


def test_shift_moves_by_up_to_an_eighth():
  image = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32) + 1
  seen = set()
  for seed in range(60):
    moved = augment.Shift(Preprocess())(image, np.random.default_rng(seed))
    assert moved.shape == image.shape
    offsets = [
      (dy, dx)
      for dy in range(-2, 3)
      for dx in range(-2, 3)
      if np.array_equal(
        moved[max(dy, 0) : 16 + min(dy, 0), max(dx, 0) : 16 + min(dx, 0)],
        image[max(-dy, 0) : 16 + min(-dy, 0), max(-dx, 0) : 16 + min(-dx, 0)],
      )
    ]
    seen.update(offsets)
    assert len(offsets) == 1
  assert len(seen) > 15


@pytest.mark.parametrize("batch_size", [1, 50, 128, 355, 1000])
def test_evaluation_counts_every_example_once(data_dir, batch_size):
  test_set = examples(data_dir, "test")
  _, labels = pipeline.to_arrays(test_set)
  weights = np.arange(1, 11) ** 2  # A sum that tells which labels were counted, and how often.

  def step(variables, batch, frozen):
    present = np.asarray(batch["mask"])
    assert len(present) % 8 == 0
    return {
      "loss": np.sum(present * weights[np.asarray(batch["label"])]),
      "accuracy": present.sum(),
      "count": present.sum(),
    }

  mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
  result = evaluate.run(
    step,
    None,
    {},
    pipeline.eval_batches(test_set, batch_size=sharding.rounded_up(batch_size, mesh)),
    mesh=mesh,
  )
  assert result["count"] == 355 and result["accuracy"] == 1
  assert result["loss"] * 355 == pytest.approx(weights[labels].sum(), rel=1e-9)


def test_evaluation_of_several_processes(data_dir):
  test_set = examples(data_dir, "test")
  shares = []
  for index in range(3):
    batches = pipeline.eval_batches(test_set, batch_size=60, process_index=index, process_count=3)
    with contextlib.closing(iter(batches)) as iterator:
      shares.append(list(iterator))
  assert {len(share) for share in shares} == {6}
  everything = [batch for share in shares for batch in share]
  labels = np.concatenate([batch["label"][batch["mask"] == 1] for batch in everything])
  np.testing.assert_array_equal(np.sort(labels), np.sort(pipeline.to_arrays(test_set)[1]))
  padding = np.concatenate([batch["image"][batch["mask"] == 0] for batch in everything])
  assert len(padding) == 5 and not padding.any()


def test_another_process_prepares_first(tmp_path, monkeypatch):
  def late(made, final):
    if pathlib.Path(final) == tmp_path / "digits" / "1.0.0":
      first.append(shutil.copytree(made, final))  # The other process, in the last moment.
    rename(made, final)

  rename, first = os.rename, []
  monkeypatch.setattr(os, "rename", late)
  assert len(sources.open_dataset("digits", "train", str(tmp_path))) == 1442
  assert first and [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
  def interrupted(self, split):
    yield from list(whole(self, split))[:100]
    raise KeyboardInterrupt

  whole = digits.Digits._generate_examples
  monkeypatch.setattr(digits.Digits, "_generate_examples", interrupted)
  with pytest.raises(KeyboardInterrupt):
    sources.open_dataset("digits", "train", str(tmp_path))
  assert not list(tmp_path.glob("digits/*"))
  monkeypatch.undo()
  assert len(sources.open_dataset("digits", "train", str(tmp_path))) == 1442


def test_cache_folder(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert cache_folder("data") == tmp_path / "bcos_jax" / "data"
  monkeypatch.delenv("XDG_CACHE_HOME")
  assert cache_folder("data") == pathlib.Path.home() / ".cache" / "bcos_jax" / "data"


def test_mistakes(data_dir, tmp_path):
  with pytest.raises(InputError, match=suggestion("digits")):
    sources.open_dataset("digit", "train", data_dir)
  with pytest.raises(InputError, match=suggestion("test")):
    sources.open_dataset("digits", "tset", data_dir)
  with pytest.raises(InputError, match="not prepared"):
    sources.open_dataset("cifar10", "train", data_dir)
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match="Cannot write") as error:
    sources.open_dataset("digits", "train", str(tmp_path / "file"))
  assert "--config.data.data_dir" in error.value.fix
  with pytest.raises(InputError, match="3 processes"):
    take(1, examples(data_dir), process_count=3)


def test_damaged_picture_names_the_example():
  source = [{"image": digits.png(np.zeros((8, 8), np.uint8)).read(40), "label": 0}]
  dataset = sources.Dataset("mine:train", source, ("0",))
  with pytest.raises(InputError, match="Example 0 of mine:train"):
    pipeline.Examples(dataset, Preprocess(size=(8, 8), resize=0))[0]


def test_label_noise(data_dir):
  dataset = sources.open_dataset("digits", "train", data_dir)

  def labels(data):
    return np.array([data.source[i]["label"] for i in range(len(data))])

  old = labels(dataset)
  assert sources.with_label_noise(dataset, 0.0, seed=0) is dataset
  half, all_new, again = (
    labels(sources.with_label_noise(dataset, share, seed))
    for share, seed in ((0.5, 0), (1.0, 0), (1.0, 0))
  )
  # Of what is drawn, a tenth stays by chance.
  assert np.mean(half != old) == pytest.approx(0.45, abs=0.03)
  assert np.mean(all_new != old) == pytest.approx(0.9, abs=0.03)
  np.testing.assert_array_equal(all_new, again)
  # A larger share changes all that a smaller one does.
  assert not (half != old)[all_new == old].any()
  with pytest.raises(InputError, match="label_noise=1"):
    sources.with_label_noise(dataset, 1.5, seed=0)
  with pytest.raises(InputError, match="several labels"):
    several = sources.Dataset("mine", dataset.source, ("a",), multi_label=True)
    sources.with_label_noise(several, 0.5, seed=0)
