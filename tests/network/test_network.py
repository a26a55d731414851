"""One line from a source to explanations: `bcos_jax.load`, `explain`, `predict`, `show`, `save`."""

import csv
import json
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, Preprocess, layers

from ..common import filled, suggestion

SIDE = 32
LABELS = ("tabby, tabby cat", "golden retriever", "goldfish")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), num_classes=3)
  folder = tmp_path_factory.mktemp("network") / "tiny"
  preprocess = Preprocess((SIDE, SIDE), resize=40)
  return bcos_jax.save(folder, model, filled(model), labels=LABELS, preprocess=preprocess)


@pytest.fixture(scope="module")
def net(bundle):
  return bcos_jax.load(bundle)


@pytest.fixture
def photos(tmp_path):
  folder = tmp_path / "photos"
  (folder / "more").mkdir(parents=True)
  seeded = np.random.RandomState(0)
  for name, size in (("a.jpg", (300, 451)), ("b.png", (50, 40)), ("more/c.png", (32, 32))):
    array = np.uint8(255 * seeded.random_sample((*size, 3)))
    Image.fromarray(array).save(folder / name)
  (folder / "notes.md").write_text("no picture")
  return folder


def test_a_file_is_explained_shown_and_saved(net, photos, tmp_path, capsys, monkeypatch):
  monkeypatch.delenv("DISPLAY", raising=False)
  monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
  ex = net.explain(photos / "a.jpg")
  assert ex.contributions.shape == (1, SIDE, SIDE) and ex.completeness_error < 1e-5
  direct = bcos_jax.explain(net.model, net.variables, net.preprocess(photos / "a.jpg")[None])
  assert np.allclose(ex.contributions, direct.contributions, atol=1e-6)
  assert len(repr(ex)) < 200 and "a.jpg" in repr(ex) and "completeness" in repr(ex)
  assert LABELS[int(ex.target[0])] in repr(ex)
  assert ex._repr_png_().startswith(b"\x89PNG")
  ex.show()
  printed = capsys.readouterr().out
  assert open(printed.split("figure: ")[1].strip(), "rb").read(4) == b"\x89PNG"
  assert ex.readings == (
    "451 x 300 pixels, resized to 60 x 40, cropped to the middle 32 x 32, 43% of it",
  )


def test_folders_lists_and_patterns_are_the_same_pictures(net, photos, tmp_path):
  ex = net.explain(photos, batch_size=2)
  assert [name.rpartition("photos/")[2] for name in ex.names] == ["a.jpg", "b.png", "more/c.png"]
  one_by_one = [net.explain(name) for name in ex.names]
  assert np.allclose(ex.value, np.concatenate([one.value for one in one_by_one]), atol=1e-5)
  assert net.explain(str(photos / "**" / "*.png")).names == ex.names[1:]
  table = tmp_path / "list.csv"
  table.write_text("file,label\nphotos/b.png,x\nphotos/a.jpg,y\n")
  assert [name[-5:] for name in net.explain(table).names] == ["b.png", "a.jpg"]
  mixed = [photos / "a.jpg", Image.open(photos / "b.png"), net.preprocess(photos / "more/c.png")]
  assert np.allclose(net.explain(mixed).value, ex.value, atol=1e-5)
  with pytest.raises(InputError, match=r"No picture at .*nope"):
    net.explain(photos / "nope.png")
  with pytest.raises(InputError, match="No picture matches"):
    net.explain(str(photos / "*.gif"))
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="holds no pictures"):
    net.explain(tmp_path / "empty")


def test_what_is_saved(net, photos, tmp_path):
  out = tmp_path / "out"
  ex = net.explain([photos / "a.jpg", photos / "b.png"], target="tabby", batch_size=8)
  paths = ex.save(out)
  names = ["a.npz", "a.png", "b.npz", "b.png"]
  names += ["explanations.csv", "explanations.json", "report.html"]
  assert sorted(path.name for path in out.iterdir()) == names
  assert {path.name for path in paths} == set(names)
  arrays = np.load(out / "b.npz")
  total = arrays["contributions"].sum() + sum(
    arrays[key] for key in arrays if key.startswith("residuals/")
  )
  assert np.allclose(total, arrays["value"], atol=1e-5)
  assert np.array_equal(arrays["weights"], ex.weights[1])
  rows = json.loads((out / "explanations.json").read_text())["explanations"]
  assert [row["label"] for row in rows] == [LABELS[0]] * 2
  assert rows[0]["value"] == pytest.approx(float(ex.value[0]))
  with (out / "explanations.csv").open(newline="") as file:
    table = list(csv.DictReader(file))
  assert table[1]["picture"].endswith("b.png") and float(table[1]["value"]) == rows[1]["value"]
  page = (out / "report.html").read_text()
  assert "a.jpg" in page and "cropped to the middle 32 x 32" in page
  again = net.explain(tmp_path)  # explanations in a folder are not explained
  assert len(again) == 3


def test_an_input_is_never_overwritten(net, photos, monkeypatch):
  monkeypatch.chdir(photos)
  before = (photos / "b.png").read_bytes()
  with pytest.raises(InputError, match=r"overwrite the input 'b\.png'"):
    net.explain("b.png").save(".")
  assert (photos / "b.png").read_bytes() == before
  assert sorted(p.name for p in photos.iterdir()) == ["a.jpg", "b.png", "more", "notes.md"]


def test_a_bundle_is_no_place_for_explanations(net, bundle, photos):
  with pytest.raises(InputError, match="is a bundle"):
    net.explain(photos / "b.png").save(bundle)


def test_a_file_of_a_bundle_is_its_bundle(net, bundle):
  for name in ("model.safetensors", "config.json"):
    assert bcos_jax.load(bundle / name).model == net.model


def test_a_damaged_picture_is_found_before_any_work(net, photos, tmp_path):
  shutil.copytree(photos, tmp_path / "more")
  (tmp_path / "more" / "zz.png").write_bytes(b"no picture")
  with pytest.raises(InputError, match=r"zz\.png"):
    net.explanations(tmp_path / "more")


def test_classes_by_name(net, photos):
  picture = photos / "b.png"
  assert net.explain(picture, target="Tabby Cat").target.tolist() == [0]
  assert net.explain(picture, target=2).target.tolist() == [2]
  ex = net.explain([picture, picture], target=["goldfish", 0])
  assert ex.target.tolist() == [2, 0] and ex.value[0] != ex.value[1]
  assert net.explain(picture, target=[[0, 1]]).target.tolist() == [[0, 1]]
  with pytest.raises(InputError, match=suggestion("goldfish")):
    net.explain(picture, target="goldfsh")
  with pytest.raises(InputError) as caught:
    net.explain(picture, target="submarine")
  assert "Did you mean" not in str(caught.value) and "'goldfish'" in caught.value.fix
  with pytest.raises(InputError, match="expected 0 to 2"):
    net.explain(picture, target=3)
  with pytest.raises(InputError, match="3 targets for 2 inputs"):
    net.explain([picture, picture], target=[0, 1, 2])


def test_predictions(net, photos):
  found = net.predict(photos / "a.jpg", top=2)
  ex = net.explain(photos / "a.jpg")
  assert [one.number for one in found] == np.argsort(-ex.logits[0])[:2].tolist()
  assert found[0].label == LABELS[found[0].number]
  assert found[0].probability == pytest.approx(1 / (1 + np.exp(-ex.logits[0].max())), rel=1e-4)
  several = net.predict(photos, top=9)
  assert len(several) == 3 and len(several[0]) == 3 and several[0][:2] == found
  assert net.predict([photos / "a.jpg"], top=2) == [found]
  with pytest.raises(InputError, match="top is 0"):
    net.predict(photos, top=0)


def test_arrays_of_any_size_are_resized(net):
  image = np.random.RandomState(0).random_sample((300, 451, 3)).astype(np.float32)
  ex = net.explain(image)
  assert ex.images.shape == (1, SIDE, SIDE, 3) and "resized to 60 x 40" in ex.readings[0]
  own = image[:SIDE, :SIDE]
  assert np.array_equal(net.explain(own).images[0], own)
  assert net.explain(own).readings == ("32 x 32 pixels, as it is",)
  eight_bit = np.uint8(np.round(255 * image))
  read = net.preprocess(Image.fromarray(eight_bit))
  assert np.abs(net.explain(eight_bit / 255.0).images[0] - read).max() < 2 / 255
  assert net.explain(np.stack([own, own])).images.shape == (2, SIDE, SIDE, 3)
  with pytest.raises(InputError, match="expected floats"):
    net.explain(eight_bit)
  with pytest.raises(InputError, match="expected \\[0, 1\\]"):
    net.explain(2 * image)
  with pytest.raises(InputError, match="not a picture"):
    net.explain([3])


def test_the_library_warns_of_pictures_of_quite_another_size(net):
  image = np.random.RandomState(0).random_sample((1, 300, 451, 3)).astype(np.float32)
  with pytest.warns(UserWarning, match=r"451 x 300 pixels.*32"):
    bcos_jax.explain(net.model, net.variables, image)


def test_a_call_inside_jit_names_the_function_for_it(net):
  images = np.zeros((1, SIDE, SIDE, 3), np.float32)
  with pytest.raises(InputError, match="dynamic_linear"):
    jax.jit(bcos_jax.explain, static_argnums=0)(net.model, net.variables, images)
  with pytest.raises(InputError, match="dynamic_linear"):
    jax.jit(lambda x: bcos_jax.explain(net.model, net.variables, x))(images)


def test_modules_without_a_layer_family_are_told_the_way():
  from bcos_jax.explain.images import explain

  images = np.zeros((1, SIDE, SIDE, 3), np.float32)
  with pytest.raises(InputError, match=r"field `ops`.*families\.md"):
    explain(layers.BcosConv(3, (3, 3)), {}, images)


def test_summaries_of_traced_and_several_explanations(net, photos):
  shown = []

  def step(images):
    ex = bcos_jax.dynamic_linear(net.model, net.variables, images)
    shown.append(repr(ex))
    return ex.value

  jax.jit(step)(np.zeros((1, SIDE, SIDE, 3), np.float32))
  assert shown == ["Explanation(images [1, 32, 32, 3], not computed)"]
  ex = net.explain(photos)
  assert "3 pictures" in repr(ex) and repr(ex).count("\n") == 1 and len(repr(ex)) < 300
  assert len(repr(net)) < 200 and "tabby" in repr(net)


@pytest.mark.parametrize("kind", ["gif", "tiff", "webp", "png"])
def test_frames_of_animations_and_pages(net, kind, tmp_path):
  path = tmp_path / f"moving.{kind}"
  frames = [Image.new("RGB", (40, 40), color) for color in ("red", "lime", "blue")]
  options = {"lossless": True} if kind == "webp" else {}
  frames[0].save(path, save_all=True, append_images=frames[1:], **options)
  assert "frame 0 of 3" in net.explain(path).readings[0]
  for frame in range(3):
    image = net.explain(path, frame=frame).images[0]
    assert image.mean(axis=(0, 1)).argmax() == frame
  with pytest.raises(InputError, match=r"moving.*3 frames.*frame 3") as caught:
    net.explain(path, frame=3)
  assert "0 to 2" in caught.value.fix


def test_numbers_as_pictures(net, tmp_path):
  values = np.linspace(0, 1, 40 * 40, dtype=np.float32).reshape(40, 40)
  path = tmp_path / "float.tiff"
  for scale in (1, 65535):
    array = values * scale if scale == 1 else np.round(values * scale)
    Image.fromarray(array.astype(np.float32)).save(path)
    ex = net.explain(path)
    assert ex.images.max() > 0.8 and ex.images.min() < 0.2
    assert f"values of 0 to {scale:g}" in ex.readings[0]
  for wrong in (values * 3.7, values - 0.5, np.where(values > 0.5, np.nan, values)):
    Image.fromarray(wrong.astype(np.float32)).save(path)
    with pytest.raises(InputError, match=r"float\.tiff.*what is white"):
      net.explain(path)


def test_what_was_done_is_said_truthfully(tmp_path):
  stretched = Preprocess((32, 32), resize=0)
  assert stretched.geometry((50, 100)) == "100 x 50 pixels, stretched to 32 x 32"
  assert stretched.geometry((64, 64)) == "64 x 64 pixels, resized to 32 x 32"
  assert stretched.geometry((32, 32)) == "32 x 32 pixels"
  both = Preprocess((32, 32), resize=(40, 40))
  said = "100 x 50 pixels, stretched to 40 x 40, cropped to the middle 32 x 32, 64% of it"
  assert both.geometry((50, 100)) == said
  path = tmp_path / "odd.png"
  Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(path)
  assert "transparent parts on white" in stretched.read(path)[1]
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.new("RGB", (40, 32)).save(tmp_path / "turned.jpg", exif=exif)
  said = "turned as its EXIF says, 32 x 40 pixels, stretched to 32 x 32"
  assert stretched.read(tmp_path / "turned.jpg")[1] == said


def test_missing_sources_are_read_as_what_they_look_like(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  (tmp_path / "mine").mkdir()
  for name in ("bundles/resnet50_v1", "mine/network", "./a/b", "a/b.pth", "no/such/folder"):
    with pytest.raises(InputError, match="There is no file or folder"):
      bcos_jax.load(name, download=True)
  with pytest.raises(InputError, match=r"no folder 'nobody/nothing' here.*repository") as caught:
    bcos_jax.load("nobody/nothing")
  assert "download=True" in caught.value.fix
  with pytest.raises(InputError, match=r"'mine/network'.*repository"):
    bcos_jax.load("mine/network")
  with pytest.raises(InputError, match=r"config\.json of 'hf:mine/network'|repository"):
    bcos_jax.load("hf:mine/network")


def test_a_bundle_says_its_architecture(bundle):
  with pytest.raises(InputError, match="would do nothing"):
    bcos_jax.load(bundle, architecture="resnet18")


def test_a_network_is_its_bundle(net, bundle, tmp_path):
  from bcos_jax.io import bundles

  same = bundles.load(bundle)
  assert net.model == same.model and net.labels == LABELS and net.preprocess == same.preprocess
  assert net.config == same.config
  assert jax.tree.all(jax.tree.map(np.array_equal, net.variables, same.variables))
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  assert isinstance(
    jax.tree.leaves(bcos_jax.load(bundle, sharding=sharding).variables)[0], jax.Array
  )
