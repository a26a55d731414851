"""ShapeScenes: deterministic drawing, with boxes and masks at the objects."""

import io

import jax
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

import bcos_jax
from bcos_jax import BcosOps, Preprocess, cli
from bcos_jax.errors import InputError
from bcos_jax.train.data import Examples, open_dataset, shape_scenes, shapes, sources
from bcos_jax.train.evaluation import image_metrics


def test_a_scene_is_a_function_of_seed_and_side():
  first, again = (shapes.scene([3], seed=(4, 5)) for _ in range(2))
  np.testing.assert_array_equal(first.image, again.image)
  np.testing.assert_array_equal(first.mask, again.mask)
  assert first.objects == again.objects
  assert not np.array_equal(first.image, shapes.scene([3], seed=(4, 6)).image)
  assert shape_scenes.drawn("train", 7).objects != shape_scenes.drawn("test", 7).objects


def test_scenes_are_those_of_version_1():
  """A change of the drawing makes other data: it needs a new version of the data set."""
  scene = shapes.scene([0], seed=0)
  assert shape_scenes.ShapeScenes.VERSION == "1.0.0"
  assert scene.objects[0] == shapes.SceneObject("arrow", 0, scene.objects[0].box)
  assert scene.objects[0].box == (7, 2, 26, 29)
  assert scene.image.astype(int).sum() == pytest.approx(1487672, abs=20)  # sines may round apart


@pytest.mark.parametrize("side", [16, 64, 224])
def test_boxes_are_those_of_the_masks(side):
  for i in range(12):
    scene = shapes.scene([i], seed=i, side=side)
    assert scene.image.shape == (side, side, 3) and scene.image.dtype == np.uint8
    assert scene.objects[0].label == i and scene.objects[0].name == shapes.CLASSES[i]
    assert all(o.label == -1 and o.name in shapes.DISTRACTORS for o in scene.objects[1:])
    assert scene.mask.max() == len(scene.objects)
    for number, thing in enumerate(scene.objects, start=1):
      top, left, bottom, right = thing.box
      inside = scene.mask == number
      assert inside[top:bottom, left:right].sum() == inside.sum() > 0
      for edge in (inside[top], inside[bottom - 1], inside[:, left], inside[:, right - 1]):
        assert edge.any()


def test_masks_are_where_pictures_differ():
  """Other colours of the object change its pixels, and hardly any others."""
  red, blue = (
    shapes.scene([5], seed=3, distractors=0, colors=[color]) for color in ((1, 0, 0), (0, 0, 1))
  )
  np.testing.assert_array_equal(red.mask, blue.mask)
  changed = np.abs(red.image.astype(int) - blue.image).max(axis=-1) > 100
  assert (changed & (red.mask == 1)).sum() > 0.98 * (red.mask == 1).sum()
  assert (changed & (red.mask == 0)).sum() < 0.1 * (red.mask == 1).sum()  # halves of edges


def test_objects_fill_a_fair_part_and_never_touch():
  shares = []
  for i in range(60):
    scene = shapes.scene([i % 12, (i + 5) % 12], seed=i)
    assert [thing.label for thing in scene.objects[:2]] == [i % 12, (i + 5) % 12]
    shares.append((scene.mask == 1).mean())
    for thing in scene.objects:
      assert thing.box[0] >= 0 and thing.box[2] <= 64
  assert 0.01 < min(shares) and max(shares) < 0.35


def test_every_form_lies_in_the_unit_circle_and_has_a_middle_and_an_outside():
  v, u = np.mgrid[-1.5:1.5:61j, -1.5:1.5:61j]
  for name, distance in shapes.FORMS.items():
    values = distance(u, v)
    assert (values < 0).sum() > 60, name
    assert (values[np.hypot(u, v) > 1.001] > 0).all(), name


def test_colour_does_not_tell_the_class():
  colors = np.array(
    [
      [scene.image[scene.mask == 1].mean(0) for scene in drawn]
      for drawn in ([shape_scenes.drawn("train", 12 * k + c) for k in range(20)] for c in range(12))
    ]
  )
  spread = colors.std(axis=1).mean()
  between = colors.mean(axis=1).std()
  assert between < 2 * spread / 20**0.5


def test_bad_scenes_are_refused():
  for labels, side in (([], 64), ([12], 64), ([-1], 64), ([0], 8)):
    with pytest.raises(InputError, match="0 to 11"):
      shapes.scene(labels, side=side)
  with pytest.raises(InputError, match="12 objects"):
    shapes.scene(list(range(12)), radius=0.9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  patch = pytest.MonkeyPatch()
  patch.setattr(shape_scenes, "COUNTS", {"train": 24, "test": 12})
  yield str(tmp_path_factory.mktemp("data"))
  patch.undo()


def test_the_data_set_holds_what_was_drawn(folder):
  dataset = open_dataset("shape_scenes", "test", folder)
  assert len(dataset) == 12 and dataset.label_names == shapes.CLASSES
  assert sorted(dataset.source[i]["label"] for i in range(12)) == list(range(12))
  for record in (dataset.source[i] for i in range(12)):
    scene = shape_scenes.drawn("test", record["label"])
    image, mask = (np.asarray(Image.open(io.BytesIO(record[key]))) for key in ("image", "mask"))
    np.testing.assert_array_equal(image, scene.image)
    np.testing.assert_array_equal(mask, scene.mask)
    assert [tuple(box) for box in record["objects"]["box"]] == [o.box for o in scene.objects]
    assert list(record["objects"]["label"]) == [o.label for o in scene.objects]


def test_sizes_are_variants(folder):
  dataset = open_dataset("shape_scenes/96", "train[:2]", folder)
  assert Image.open(io.BytesIO(dataset.source[0]["image"])).size == (96, 96)
  with pytest.raises(InputError, match="variant of 'shape_scenes' '95'"):
    open_dataset("shape_scenes/95", "train", folder)


def test_it_is_a_tfds_builder(folder):
  open_dataset("shape_scenes", "train", folder)
  builder = sources.BUILDERS["shape_scenes"](data_dir=folder, file_format="array_record")
  assert isinstance(builder, tfds.core.GeneratorBasedBuilder)
  assert builder.info.splits["train"].num_examples == 24


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), image_size=32, num_classes=12)
  variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), np.zeros((1, 32, 32, 6)))
  preprocess = Preprocess(size=(32, 32), resize=64)  # the middle of a scene
  return bcos_jax.save(
    tmp_path_factory.mktemp("bundle") / "tiny",
    model,
    variables,
    labels=shapes.CLASSES,
    preprocess=preprocess,
  )


def test_regions_are_cut_like_pictures(folder, bundle):
  network = bcos_jax.load(bundle)
  examples = Examples(open_dataset("shape_scenes", "test", folder), network.preprocess)
  regions = image_metrics.regions(network.preprocess, examples.dataset, range(12))
  for region, record in zip(regions, (examples.dataset.source[i] for i in range(12)), strict=True):
    scene = shape_scenes.drawn("test", record["label"])
    np.testing.assert_array_equal(region, (scene.mask == 1)[16:48, 16:48])


def test_evaluate_points_at_objects(folder, bundle, capsys):
  arguments = [str(bundle), f"--data_dir={folder}", "--dataset=shape_scenes", "--smooth=0"]
  assert cli.main(["evaluate", *arguments, "--metrics=energy_pointing"]) == 0
  lines = capsys.readouterr().out.splitlines()
  numbers = {line.split()[2]: float(line.split()[3]) for line in lines if "excluded" not in line}
  assert numbers["num_scored"] <= numbers["num_images"] == 12
  assert 0 < numbers["mean"] < 0.9 and 0 < numbers["random"] < 0.5 and numbers["oracle"] == 1
