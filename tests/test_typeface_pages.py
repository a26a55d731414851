"""The benchmark of the typeface network: its pickle reader, its pages, and what it measures."""

import importlib
import io
import json
import os
import pickle
import sys

import jax
from matplotlib import get_data_path
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import InputError, StandardOps

from .common import ROOT


def _scripts(*names):
  """Imports scripts from their folder, as they import each other."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return [importlib.import_module(name) for name in names]


drawn_pages, pages, typegroups = _scripts("drawn_pages", "pages", "typegroups")
_FOLDER = f"{get_data_path()}/fonts/ttf"
FONTS = {
  kind: [f"{_FOLDER}/DejaVu{face}.ttf"]
  for kind, face in {
    "antiqua": "Serif",
    "italic": "Serif-Italic",
    "greek": "Sans",
    "hebrew": "SansMono",
  }.items()
}


class _Call:
  """Pickles as a call of a function."""

  def __init__(self, function, *arguments):
    self._call = function, arguments

  def __reduce__(self):
    return self._call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_a_program_is_refused_before_it_runs(tmp_path, protocol):
  mark = tmp_path / "mark"
  for function, argument in ((os.system, f"touch {mark}"), (open, str(mark)), (eval, "1")):
    data = pickle.dumps({"network": _Call(function, argument)}, protocol)
    with pytest.raises(InputError, match=r"names (posix|nt|_?io|builtins|__builtin__)\."):
      typegroups.read(data)
  assert not mark.exists()


def test_names_below_known_modules_are_empty_classes_and_not_imported(monkeypatch):
  monkeypatch.setitem(sys.modules, "torchvision", None)  # an import would fail
  data = b"ctorchvision.nowhere\nrun\n(S'argument'\ntR."  # torchvision.nowhere.run('argument')
  with pytest.raises(InputError, match="No pickled classifier"):
    typegroups.read(data)


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2]), b"\x80\x04."])
def test_what_is_no_classifier_is_refused(data):
  with pytest.raises(InputError):
    typegroups.read(data)


def _stored(numbers: np.ndarray) -> bytes:
  """A storage as torch wrote it: four pickles, and then the bytes."""
  file = io.BytesIO()

  class Writer(pickle.Pickler):
    def persistent_id(self, obj):
      return obj if isinstance(obj, tuple) and obj[0] == "storage" else None

  kind = type("FloatStorage", (), {"__module__": "torch"})
  fake = type(sys)("torch")
  fake.FloatStorage = kind  # what the pickler looks up to see that the name is right
  before = sys.modules.get("torch")
  sys.modules["torch"] = fake
  try:
    for part in (
      typegroups._MAGIC,
      typegroups._PROTOCOL,
      {"little_endian": True},
      ("storage", kind, "0", "cpu", len(numbers), None),
      ["0"],
    ):
      Writer(file, 2).dump(part)
  finally:
    del sys.modules["torch"]
    if before is not None:
      sys.modules["torch"] = before
  file.write(len(numbers).to_bytes(8, "little") + numbers.tobytes())
  return file.getvalue()


def test_tensors_are_read_from_their_storage_and_nowhere_else():
  numbers = np.arange(12, dtype=np.float32)
  storage = typegroups._storage(_stored(numbers))
  np.testing.assert_array_equal(storage, numbers)
  np.testing.assert_array_equal(
    typegroups._tensor(storage, 2, (2, 3), (1, 2), False), [[2, 4, 6], [3, 5, 7]]
  )
  for offset, size, strides in (
    (0, (4, 4), (4, 1)),
    (-1, (2,), (1,)),
    (0, (2,), (-1,)),
    (12, (), ()),
    (0, (10**9,), (0,)),
    (0, (2, 2), (1,)),
  ):
    with pytest.raises(InputError, match="not in its storage"):
      typegroups._tensor(storage, offset, size, strides)


@pytest.mark.parametrize("layout", drawn_pages.LAYOUTS)
def test_text_boxes_hold_all_ink_and_lie_apart(layout):
  if layout == "beside things":
    pytest.importorskip("sklearn")
  for page in drawn_pages.boxed_pages(FONTS, layout, 8, seed=5):
    inside = np.zeros(page.picture.shape, int)
    for top, left, bottom, right in page.boxes:
      inside[top:bottom, left:right] += 1
      assert page.ink[top:bottom, left:right].max() > 60
    assert inside.max() == 1 and len(page.boxes) == 1 + (layout == "two kinds")
    assert not page.ink[inside == 0].any()
    assert page.picture.dtype == np.uint8 and page.picture.shape == (drawn_pages.SIDE,) * 2


def test_paper_is_the_same_inside_and_outside_of_a_box():
  """A network could see a box by its paper otherwise."""
  for page in drawn_pages.boxed_pages(FONTS, "alone", 6, seed=7):
    ((top, left, _, right),) = page.boxes
    edge = page.picture.astype(float)
    within = edge[top : top + 2, left:right].mean()
    beyond = edge[top - 2 : top, left:right].mean()
    assert abs(within - beyond) < 4, page.boxes


def test_whole_pages_depend_on_seed_and_fonts_alone():
  pictures, kinds = drawn_pages.whole_pages(FONTS, 4, seed=1)
  again, _ = drawn_pages.whole_pages(FONTS, 4, seed=1)
  np.testing.assert_array_equal(pictures, again)
  assert list(kinds) == list(FONTS) and pictures.shape == (4, 224, 224)


def test_missing_fonts_are_named(tmp_path):
  with pytest.raises(InputError, match="EBGaramond12-Regular"):
    drawn_pages.find_fonts(tmp_path)


def _given(rows, own, other=None):
  own = np.array(own, bool)
  other = np.zeros_like(own) if other is None else np.array(other, bool)
  return pages.Boxed(np.zeros(own.shape, np.uint8), np.zeros(len(own)), own, other, np.array(rows))


def test_shares_in_boxes_of_maps_made_by_hand():
  own, other = [[[1, 0, 0, 0]], [[0, 1, 0, 0]]], [[[0, 1, 0, 0]], [[1, 0, 0, 0]]]
  maps = np.array([[[3.0, 1, -9, 4]], [[1, 1, 0, 0]]])
  found = pages.in_boxes(maps, _given([0, 1], own, other))
  assert found["area"] == 0.25 and found["empty"] == 0
  assert found["own"][0] == pytest.approx((3 / 8 + 1 / 2) / 2)
  assert found["between"][0] == pytest.approx((3 / 4 + 1 / 2) / 2)
  # Of two pages, with the sample's deviation.
  assert found["between"][1] == pytest.approx(0.125)


def test_maps_without_positive_part_are_counted_and_left_out():
  own = [[[1, 0]], [[1, 0]], [[1, 0]]]
  found = pages.in_boxes(np.array([[[1.0, 0]], [[0, 1.0]], [[-1.0, -1]]]), _given([0, 1, 2], own))
  assert found["empty"] == 1 and found["own"][0] == 0.5 and "between" not in found
  assert pages.in_boxes(np.zeros((3, 1, 2)), _given([0, 1, 2], own)) == {"empty": 3, "area": 0.5}


def test_standard_errors_are_over_pages_and_not_over_boxes():
  mean, error = pages.error_of(np.array([0.0, 1, 0, 1]), np.array([0, 0, 1, 1]))
  assert (mean, error) == (0.5, 0.0)  # each page's two boxes make up for each other


def test_agreement_counts_sure_pages_apart():
  teacher = np.array([[9.0, 0], [0, 9], [0.1, 0]])
  found = pages.agreements(np.array([[1.0, 0], [1, 0], [0, 1]]), teacher)
  assert found == {"all": pytest.approx(1 / 3), "sure": 0.5, "pages": [3, 2]}


def test_every_box_of_a_page_is_explained_for_its_own_text():
  labels = ("antiqua", "italic")
  tests = {
    "two kinds": np.zeros((1, 8, 8), np.uint8),
    "two kinds boxes": np.array([[(0, 0, 2, 2), (4, 4, 8, 8)]]),
    "two kinds kinds": np.array([["italic", "antiqua"]]),
  }
  given = pages.boxed(tests, "two kinds", labels)
  assert list(given.targets) == [1, 0] and list(given.rows) == [0, 0]
  assert [mask.sum() for mask in given.own] == [4, 16]
  np.testing.assert_array_equal(given.other, given.own[::-1])


@pytest.mark.slow
def test_fitted_measured_and_drawn_on_a_small_network(tmp_path, monkeypatch):
  """All commands but the matching, whose recipe the pages of docs check."""
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), num_classes=4)
  variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
  bundles = tmp_path / "conventional", tmp_path / "closed"
  bcos_jax.save(bundles[0], model, variables, labels=drawn_pages.CLEAR)
  (tmp_path / "fit").mkdir()
  drawn = [page.picture for page in drawn_pages.boxed_pages(FONTS, "two kinds", 16, seed=0)]
  for i, page in enumerate(drawn):
    Image.fromarray(page).save(tmp_path / "fit" / f"{i:02d}.png")
  tests = {"whole": np.stack(drawn)}
  for layout in drawn_pages.LAYOUTS:
    made = drawn_pages.boxed_pages(FONTS, layout, 24, seed=1)
    tests[layout] = np.stack([page.picture for page in made])
    tests[f"{layout} boxes"] = np.array([page.boxes for page in made])
    tests[f"{layout} kinds"] = np.array([page.kinds for page in made])
  np.savez(tmp_path / "tests.npz", **tests)

  def run(*words):
    monkeypatch.setattr(sys, "argv", ["pages.py", *map(str, words)])
    pages.main()

  run("fit", bundles[0], tmp_path / "fit", bundles[1])
  given = bundles[0], tmp_path / "tests.npz", f"--closed={bundles[1]}"
  run("measure", *given, f"--output={tmp_path / 'boxes.json'}")
  found = json.loads((tmp_path / "boxes.json").read_text())
  assert set(found["boxes"]) == set(drawn_pages.LAYOUTS)
  assert set(found["boxes"]["two kinds"]) == {*pages.CONVENTIONAL, "closed form"}
  assert found["agreement"]["whole"]["conventional"]["all"] == 1
  assert found["completeness"]["closed form"] < 1e-4
  run("figure", *given, "--methods=closed form", f"--output={tmp_path / 'pages.png'}")
  assert Image.open(tmp_path / "pages.png").width > 200
  with pytest.raises(InputError, match="Grad-CAM"):
    run("figure", *given, "--methods=Grad-Cam")
