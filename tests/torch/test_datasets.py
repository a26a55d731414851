"""Texts saved by Hugging Face's package `datasets`, from the second environment."""

import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="installed by `make test-torch` only")

from bcos_jax import InputError  # noqa: E402
from bcos_jax.configs import common  # noqa: E402
from bcos_jax.train.data.text import sources, splits  # noqa: E402

from ..common import suggestion  # noqa: E402

pytestmark = pytest.mark.torch
TEXTS = ["good", "bad", "fine, and more", "poor"]


def _dataset(labels=(1, 0, 1, 0), names=("neg", "pos")):
  kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")
  features = datasets.Features({"sentence": datasets.Value("string"), "label": kind})
  rows = {"sentence": TEXTS[: len(labels)], "label": list(labels)}
  return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def folder(tmp_path):
  splits = {"train": _dataset(), "validation": _dataset().select([2, 1])}
  datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
  return tmp_path / "saved"


def test_splits_and_their_classes(folder):
  data = common.language_model().data
  data.update(folder=str(folder), text="sentence", test_split="validation")
  train, test = splits.open_text_splits(data)
  assert list(train.texts) == TEXTS and train.labels.tolist() == [1, 0, 1, 0]
  assert list(test.texts) == [TEXTS[2], TEXTS[1]] and test.labels.tolist() == [1, 0]
  assert train.label_names == test.label_names == ("neg", "pos")
  again = splits.open_text_split(str(folder), "validation", text="sentence")
  np.testing.assert_array_equal(again.labels, test.labels)


def test_one_part_whose_labels_are_words(tmp_path):
  _dataset(("up", "down", "up", "down"), names=()).save_to_disk(tmp_path / "saved")
  read = sources.read_hugging_face(tmp_path / "saved", text="sentence")
  assert read.label_names == ("down", "up") and read.labels.tolist() == [1, 0, 1, 0]


def test_what_cannot_be_read_is_told(folder):
  def read(where=folder, split="train", **columns):
    return sources.read_hugging_face(where, split, **columns)

  for call, message in (
    (lambda: read(split="trian", text="sentence"), "Unknown split.*" + suggestion("train")),
    (lambda: read(text="body"), "no 'body'"),
    (lambda: read(folder / "no"), "No folder"),
  ):
    with pytest.raises(InputError, match=message):
      call()
  arrow = next((folder / "train").glob("*.arrow"))
  arrow.write_bytes(arrow.read_bytes()[:100])
  with pytest.raises(InputError, match="cannot be read"):
    read(text="sentence")


def test_labels_outside_of_the_classes_are_refused(tmp_path):
  _dataset((1, -1, 0, 1)).save_to_disk(tmp_path / "saved")
  with pytest.raises(InputError, match="Unknown label"):
    sources.read_hugging_face(tmp_path / "saved", text="sentence")
