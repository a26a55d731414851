"""Augmentation against values computed independently."""

import contextlib
import io

import numpy as np
from PIL import Image
import pytest

from bcos_jax.errors import InputError
from bcos_jax.inputs import Preprocess
from bcos_jax.train.config import load_config
from bcos_jax.train.data import augment, mix, pipeline, policies, sources

from ..common import suggestion


def picture(width=60, height=40, seed=0) -> Image.Image:
  pixels = np.random.RandomState(seed).randint(0, 256, (height // 4, width // 4, 3), np.uint8)
  return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def dataset(count, damaged=(), name="mine:train") -> sources.Dataset:
  """Examples whose label and red channel are their number."""

  def encode(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, format="png")
    return buffer.getvalue()[: 40 if number in damaged else None]

  records = [{"image": encode(i), "label": i} for i in range(count)]
  return sources.Dataset(name, records, tuple(map(str, range(count))))


def batches(examples, count, **fields):
  keep = augment.Shift(examples.prepare, 0.0)
  made = pipeline.train_batches(examples, keep, **{"batch_size": 8, "seed": 0, **fields})
  with contextlib.closing(iter(made)) as iterator:
    return [next(iterator) for _ in range(count)]


def test_shifts_reach_as_far_as_the_recipe_says():
  config = load_config(
    "digits", ["--config.data.augment.shift=0.08", "--config.data.augment.flip=0.0"]
  )
  made = augment.from_config(config.data.augment, Preprocess((28, 28), 0, colors=1))
  dot = np.zeros((28, 28, 1), np.float32)
  dot[14, 14] = 1
  rng = np.random.default_rng(0)
  places = np.array([np.argwhere(made(dot, rng)[..., 0])[0] - 14 for _ in range(300)])
  np.testing.assert_array_equal(places.min(axis=0), [-2, -2])
  np.testing.assert_array_equal(places.max(axis=0), [2, 2])
  assert len({tuple(place) for place in places.tolist()}) == 25


def test_random_resized_crop_stays_in_range_and_varies():
  made = augment.RandomResizedCrop(
    Preprocess((16, 24), 0), policy=policies.RandAugment(), erase=0.5
  )
  prepared = made.prepare(picture())
  images = np.stack([made(prepared, np.random.default_rng(seed)) for seed in range(20)])
  assert images.shape == (20, 16, 24, 3) and images.dtype == np.float32
  assert images.min() >= 0 and images.max() <= 1
  assert len({image.tobytes() for image in images}) == 20
  again = made(prepared, np.random.default_rng(3))
  np.testing.assert_array_equal(again, images[3])


def test_grey_networks_get_grey_pictures():
  grey = Preprocess((16, 16), 0, colors=1)
  for policy in (None, policies.RandAugment(), policies.trivial_augment_wide):
    made = augment.RandomResizedCrop(grey, policy=policy)
    for seed in range(20):
      image = made(made.prepare(picture()), np.random.default_rng(seed))
      assert image.shape == (16, 16, 1)


def test_where_no_box_fits_the_largest_central_one_is_taken():
  rng = np.random.default_rng(0)
  wide = augment.random_box((400, 30), (0.9, 1.0), (3 / 4, 4 / 3), rng)
  assert wide == (180, 0, 220, 30)
  tall = augment.random_box((30, 400), (0.9, 1.0), (3 / 4, 4 / 3), rng)
  assert tall == (0, 180, 30, 220)


def test_erasing_blackens_one_box_of_allowed_size():
  image = np.ones((40, 50, 3), np.float32)
  shares = []
  for seed in range(200):
    black = augment.erased(image, np.random.default_rng(seed))[..., 0] == 0
    rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
    assert black.sum() == len(rows) * len(columns)
    assert rows[-1] - rows[0] == len(rows) - 1 and columns[-1] - columns[0] == len(columns) - 1
    shares.append(black.mean())
  assert image.all()
  assert 0.015 < min(shares) < 0.05 and 0.28 < max(shares) < 0.35


def test_rand_augment_changes_and_identity_does_not():
  original = picture()
  rng = np.random.default_rng(0)
  results = [policies.RandAugment(2, 10)(original, rng) for _ in range(40)]
  assert all(result.size == original.size and result.mode == "RGB" for result in results)
  assert sum(result.tobytes() != original.tobytes() for result in results) > 30
  with pytest.raises(InputError, match="magnitude 31"):
    policies.RandAugment(2, 31)


def test_mixup_blends_with_the_example_before():
  images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
  made = mix.Mix(mixup=0.2, cutmix=0.0, num_classes=4)
  batch = made({"image": images, "label": np.arange(4)}, np.random.default_rng(0))
  share = batch["label"][0, 0]
  assert 0 < share < 1
  before = np.array([3, 0, 1, 2])
  np.testing.assert_allclose(
    batch["image"].ravel(), share * np.arange(4) + (1 - share) * before, atol=1e-6
  )
  for i in range(4):
    expected = np.zeros(4)
    expected[i], expected[before[i]] = share, 1 - share
    np.testing.assert_allclose(batch["label"][i], expected, atol=1e-6)


def test_cutmix_labels_are_shares_of_pixels():
  images = np.stack([np.full((10, 12, 1), i, np.float32) for i in range(3)])
  made = mix.Mix(mixup=0.0, cutmix=1.0, num_classes=3)
  for seed in range(30):
    batch = made({"image": images, "label": np.arange(3)}, np.random.default_rng(seed))
    for i in range(3):
      for label in range(3):
        pixels = (batch["image"][i] == label).mean()
        assert batch["label"][i, label] == pytest.approx(pixels, abs=1e-6)
  np.testing.assert_array_equal(images[1], 1)


def test_both_ways_take_turns_at_random():
  images = np.stack([np.full((16, 16, 1), i, np.float32) for i in range(2)])
  made = mix.Mix(mixup=0.2, cutmix=1.0, num_classes=2)
  pasted = 0
  for seed in range(60):
    batch = made({"image": images, "label": np.arange(2)}, np.random.default_rng(seed))
    pasted += set(np.unique(batch["image"])) <= {0.0, 1.0}
  assert 15 < pasted < 50


def test_mixed_batches_depend_on_the_step_alone():
  examples = pipeline.Examples(dataset(16), Preprocess((8, 8), 0))
  fields = {"mix": mix.Mix(0.2, 1.0, 16)}
  straight = batches(examples, 5, **fields)
  resumed = batches(examples, 2, start_step=3, **fields)
  for batch, other in zip(straight[3:], resumed, strict=True):
    np.testing.assert_array_equal(batch["image"], other["image"])
    np.testing.assert_array_equal(batch["label"], other["label"])
  assert not np.array_equal(straight[0]["label"], straight[2]["label"])


def test_repeated_augmentation():
  """Four variations in a row; an epoch is as long as before, with a quarter of the pictures."""
  examples = pipeline.Examples(dataset(20), Preprocess((8, 8), 0))
  labels = np.concatenate([b["label"] for b in batches(examples, 5, repeats=4)])  # Two epochs.
  for epoch in (labels[:20], labels[20:]):
    groups = epoch.reshape(5, 4)
    assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 5
  np.testing.assert_array_equal(
    labels[16:32],
    np.concatenate([b["label"] for b in batches(examples, 2, repeats=4, start_step=2)]),
  )


def test_repeated_examples_are_augmented_differently():
  examples = pipeline.Examples(dataset(4), Preprocess((8, 8), 0))
  drawn = pipeline.train_batches(
    examples,
    lambda image, rng: np.full((1, 1, 1), rng.random(), np.float32),
    batch_size=4,
    seed=0,
    repeats=4,
  )
  with contextlib.closing(iter(drawn)) as iterator:
    assert len(np.unique(next(iterator)["image"])) == 4


def test_damaged_pictures_are_counted_and_replaced_or_refused():
  some = dataset(16, damaged=(3, 4, 9))
  with pytest.warns(UserWarning, match="Example 3 of mine:train"):
    examples = pipeline.Examples(some, Preprocess((8, 8), 0), skip_damaged=True)
    assert examples[3]["label"] == 5 and examples[3]["damaged"] == 1
    epoch = batches(examples, 2)
  assert sum(batch["damaged"].sum() for batch in epoch) == 3
  labels = np.concatenate([batch["label"] for batch in epoch])
  assert not set(labels) & {3, 4, 9}
  with pytest.raises(InputError, match=r"Example \d+ of mine:train"):
    batches(pipeline.Examples(some, Preprocess((8, 8), 0)), 2)


@pytest.mark.filterwarnings("ignore:Example")
def test_damaged_examples_do_not_count_in_evaluation():
  examples = pipeline.Examples(
    dataset(10, damaged=(2, 7)), Preprocess((8, 8), 0), skip_damaged=True
  )
  with contextlib.closing(iter(pipeline.eval_batches(examples, batch_size=4))) as iterator:
    parts = list(iterator)
  mask = np.concatenate([part["mask"] for part in parts])
  labels = np.concatenate([part["label"] for part in parts])
  assert sorted(labels[mask == 1]) == [0, 1, 3, 4, 5, 6, 8, 9]


@pytest.mark.filterwarnings("ignore:Example")
def test_nothing_but_damage_is_an_error():
  hopeless = dataset(5, damaged=range(5))
  with pytest.raises(InputError, match="cannot be read"):
    pipeline.Examples(hopeless, Preprocess((8, 8), 0), skip_damaged=True)[0]


def test_options_that_would_do_nothing_are_refused():
  with pytest.raises(InputError, match="crop=random_resized"):
    load_config("digits", ["--config.data.augment.policy=rand_augment"])
  with pytest.raises(InputError, match=suggestion("rand_augment")):
    load_config("digits", ["--config.data.augment.policy=randaugment"])
