"""Programs of PyTorch as networks of this package: bundles, B-cosification, training, commands."""

import base64
import dataclasses
import json
import zlib

import jax
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, InputError, calibration, cli, convert, export, program
from bcos_jax.convert.programs.function import TorchFunction
from bcos_jax.convert.programs.graph import Graph, Node, Reference, TensorSpec
from bcos_jax.convert.programs.networks import state_dict_of
from bcos_jax.io.bundles import make_bundle
from bcos_jax.io.tensor_files import read_safetensors
from bcos_jax.train.start.bundles import new_head

from ..common import photos, rel
from .test_programs import EXPECTED, FILE

COLORS = Encoding((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NAMES = tuple("abcdefgh")


@pytest.fixture(scope="module")
def function():
  return convert.from_torch(FILE)


@pytest.fixture(scope="module")
def network(function):
  return program.as_network(function[0], variables=function[1], encoding=COLORS)


def run(*arguments, code=0):
  assert cli.main([str(argument) for argument in arguments]) == code


def pictures(count):
  return photos(count, 12)


def test_a_bundle_contains_the_program(network, function, tmp_path):
  model, variables = network
  assert (model.image_size, model.num_classes, model.channels_first) == ((12, 12), 8, True)
  assert set(variables["batch_stats"]) == {"stem.1.running_mean", "stem.1.running_var"}
  bcos_jax.save(tmp_path / "bundle", model, variables, labels=NAMES)
  read = bcos_jax.load(tmp_path / "bundle")
  assert read.model == model and len(repr(model)) < 600
  images = pictures(3)
  seen = np.moveaxis(np.asarray(COLORS(images)), -1, 1)
  assert np.array_equal(
    read.model.apply(read.variables, COLORS(images)), function[0](function[1], seen)
  )
  assert "module" not in read.config
  card = (read.save_pretrained(tmp_path / "shared") / "README.md").read_text()
  assert "import bcos_jax." not in card and "arguments=..." in card
  ex, expected = read.explain(images, "b"), bcos_jax.explain(*function, seen, 1)
  assert rel(ex.weights, expected.weights) <= 1e-5
  assert ex.residuals.keys() == expected.residuals.keys() and "qkv.bias" in ex.residuals
  assert not np.array_equal(ex.contributions[0], ex.contributions[1])


def test_the_program_survives_as_text(function):
  text = function[0].recipe()[1]["program"]
  again = convert.programs.stored.unpacked(text)
  assert again.recipe()[1]["program"] == text and len(text) < 3000
  for name in ("arguments", "structure", "parameters", "described", "bound"):
    assert getattr(again, name) == getattr(function[0], name), name
  assert np.array_equal(
    again(function[1], EXPECTED["inputs"]), function[0](function[1], EXPECTED["inputs"])
  )
  state = again.state_dict(function[1])
  assert state["stem.1.num_batches_tracked"].dtype == np.int64


def test_the_text_of_a_network_tells_it_apart(network):
  """Interrupted work is taken up by it."""
  model, text = network[0], network[0].program_arguments["program"]
  others = [
    model.clone(arguments=json.dumps({"program": edited(text, lambda about: about)})),
    model.clone(rules=json.dumps({"*" * 200: {"b": 1.0}})),
    model.clone(ops=BcosOps(b=1.5)),
    model.with_classes(8).clone(channels_first=False),
  ]
  assert len({repr(each) for each in (model, *others)}) == 5
  assert repr(model) == repr(model.clone())


def edited(text, edit):
  about = json.loads(zlib.decompress(base64.b85decode(text)))
  return base64.b85encode(zlib.compress(json.dumps(edit(about) or about).encode())).decode()


def renamed(about):
  graph = about["graph"]["@graph"]
  graph["nodes"]["@tuple"][0]["@node"]["target"] = "os.system.default"


def set_of(about, field, name):
  values = next(iter(about[field].values()))
  values[0] = [values[0][0], name] if isinstance(values[0], list) else name


def without_a_value(about):
  del about["graph"]["@graph"]["nodes"]["@tuple"][2]


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda text: text[:-40], "cannot be read"),
    (lambda text: "", "cannot be read"),
    (lambda text: edited(text, lambda about: about.update(format=2)), "of a later format"),
    (lambda text: edited(text, lambda about: about.pop("graph") and about), "cannot be read"),
    (lambda text: edited(text, lambda about: about.update(bound={"@no": 1})), "cannot be read"),
    (lambda text: edited(text, lambda about: about.update(described=3)), "cannot be read"),
    (lambda text: edited(text, lambda about: set_of(about, "bound", "nothing")), "cannot be read"),
    (lambda text: edited(text, lambda about: set_of(about, "arguments", "zzz")), "cannot be read"),
    (lambda text: edited(text, renamed), "operator os.system.default .* has no rule"),
    (lambda text: edited(text, without_a_value), "cannot be read.*which nothing makes"),
  ],
)
def test_damaged_programs(network, damage, message):
  text = network[0].program_arguments["program"]
  with pytest.raises(InputError, match=message):
    model = network[0].clone(arguments=json.dumps({"program": damage(text)}))
    model.apply(network[1], COLORS(pictures(1)))


@pytest.mark.parametrize("arguments", ["[1]", '{"x": 1}', "{}"])
def test_damaged_arguments(network, arguments):
  with pytest.raises(InputError, match=r"torch_program\(.*cannot be built"):
    network[0].clone(arguments=arguments).apply(network[1], COLORS(pictures(1)))


def test_variables_are_those_of_the_program(function):
  whole = function[1]
  renamed = {("z" + name if name == "qkv.bias" else name): leaf for name, leaf in whole.items()}
  for given, message in (
    (renamed, "The variables have the structure"),
    ({**whole, "more": np.zeros(2)}, "The variables have the structure"),
    ({**whole, "qkv.bias": np.zeros(3)}, r"qkv\.bias has shape \(3,\), expected \(24,\)"),
  ):
    with pytest.raises(InputError, match=message):
      program.as_network(function[0], variables=given)
  with pytest.raises(InputError, match="the function is built already"):
    program.as_network(function[0], {"more": 1}, variables=whole)


def test_b_cosified_as_the_networks_of_this_package_are(network):
  model, variables = network
  images = pictures(3)
  same = BcosOps(b=1.0, use_bias=True, pool="max")
  kept = bcos_jax.bcosify(model, variables, ops=same)
  wanted = np.asarray(model.apply(variables, COLORS(images)))
  assert rel(bcos_jax.explain(*kept, images, 1).logits, wanted) <= 1e-5
  made, own = bcos_jax.bcosify(model, variables, ops=BcosOps(b=1.5))
  assert "negated" in own["params"] and made.ops.b == 1.5
  ex = bcos_jax.explain(made, own, images)
  assert ex.weights.shape == (3, 12, 12, 6) and ex.completeness_error.max() <= 3e-6
  with pytest.raises(InputError, match=r"norm='instance'.* not follow"):
    bcos_jax.bcosify(model, variables, ops=BcosOps(norm="instance"))


def test_families_that_programs_do_not_follow(network):
  @dataclasses.dataclass(frozen=True)
  class Own(BcosOps):
    more: int = 0

  for options, message in (
    ({"ops": Own()}, "The family is Own, whose layers programs do not have"),
    ({"ops": BcosOps(logit_bias=-3.0)}, "logit_bias=-3.0, which programs do not have"),
    ({"fold_mean": False}, "fold_mean=False does nothing"),
  ):
    with pytest.raises(InputError, match=message):
      bcos_jax.bcosify(*network, **options)


def test_calibration_checks_pictures_and_teacher(network, function):
  twin = bcos_jax.bcosify(*network)
  with pytest.raises(InputError, match=r"expected .*\[0, 1\]"):
    calibration.calibrate(*network, *twin, 255 * pictures(16))
  other = program.as_network(function[0], variables=function[1])
  with pytest.raises(InputError, match="normalises its pictures otherwise"):
    calibration.calibrate(*other, *twin, pictures(16))


def test_biases_that_were_removed_are_zero_in_the_state_dict(network, function):
  ops = BcosOps(encoding=Encoding(pairing="none"))
  bundle = make_bundle(*bcos_jax.bcosify(*network, ops=ops))
  state = state_dict_of(bundle)
  assert not state["qkv.bias"].any() and not state["stem.1.running_mean"].any()
  assert np.array_equal(state["stem.0.weight"], function[1]["stem.0.weight"])
  assert state.keys() == function[0].state_dict(function[1]).keys()


def test_calibrated_in_closed_form(network):
  model, variables = network
  images = np.uint8(255 * pictures(48))
  twin = bcos_jax.bcosify(model, variables)
  settings = calibration.Calibration(rows=200, rows_per_channel=1)
  seen = []
  own, report = calibration.calibrate(
    model, variables, *twin, images, settings, progress=lambda parts: seen.append(parts) or parts
  )
  assert len(report.maps) == len(seen[0]) >= 2
  assert jax.tree.structure(own) == jax.tree.structure(twin[1])
  assert max(part.fit for part in report.maps) > 0.3


def shop_function(side=16, classes=10, dtype="float32"):
  """A convolution, a ReLU, pooling and a head, as a graph; and variables.

  Without a side it takes pictures of any size.
  """
  place = program.Place("net", "net.py:1")

  def node(target, result, *arguments):
    return Node(f"aten.{target}", arguments, {}, (result,), place)

  of, float32 = Reference, np.dtype("float32")
  nodes = (
    node("conv2d.default", "a", of("x"), of("w"), of("b"), [2, 2], [1, 1]),
    node("relu.default", "c", of("a")),
    node("mean.dim", "d", of("c"), [2, 3]),
    node("linear.default", "y", of("d"), of("v"), of("e")),
  )
  shapes = {"w": (6, 1, 3, 3), "b": (6,), "v": (classes, 6), "e": (classes,)}
  names = {"w": "stem.weight", "b": "stem.bias", "v": "fc.weight", "e": "fc.bias"}
  values = {
    "x": TensorSpec((None, 1, side, side), np.dtype(dtype)),
    "y": TensorSpec((None, classes), float32),
  }
  function = TorchFunction(
    graph=Graph(("x", *names), nodes, (of("y"),), values, frozenset()),
    bound=names,
    constants={},
    arguments=("x",),
    structure=None,
    state={name: name for name in names.values()},
    described={names[k]: TensorSpec(shape, float32) for k, shape in shapes.items()},
    parameters=frozenset(names.values()),
  )
  rng = np.random.default_rng(0)
  variables = {names[k]: np.float32(rng.normal(0, 0.4, shape)) for k, shape in shapes.items()}
  return function, variables


def shop(side=16, classes=10):
  function, variables = shop_function(side, classes)
  fields = {"encoding": Encoding((0.3,), (0.4,)), "image_size": None if side else 16}
  return program.as_network(function, variables=variables, **fields)


@pytest.mark.parametrize("to", ["stablehlo", "onnx"])
def test_exported_for_any_number_of_pictures(network, to, tmp_path):
  if to == "onnx":
    pytest.importorskip("onnxruntime", reason="an extra")
  made = bcos_jax.bcosify(*network)
  bcos_jax.save(tmp_path / "bundle", *made)
  run_exported = export.load(export.save(bcos_jax.load(tmp_path / "bundle"), tmp_path / to, to=to))
  images, target = pictures(3), np.array([4, 0, 2])
  found = run_exported(images, target)
  ex = bcos_jax.explain(*made, images, target)
  assert rel(found["logits"], ex.logits) <= 1e-5
  assert rel(found["contributions"], ex.contributions) <= 1e-5


def test_a_head_for_other_classes():
  model, variables = shop()
  new, own = new_head(model, variables, 3, jax.random.key(1))
  other = new_head(model, variables, 3, jax.random.key(2))[1]["params"]["fc.weight"]
  own = own["params"]
  assert new.num_classes == 3 and own["fc.weight"].shape == (3, 6)
  assert np.array_equal(own["stem.weight"], variables["params"]["stem.weight"])
  assert 0.1 < np.std(own["fc.weight"]) < 1 and not np.array_equal(own["fc.weight"], other)
  x = photos(2, 16)[..., :1]
  assert new.apply({"params": own}, model.ops.encoding(x)).shape == (2, 3)
  assert bcos_jax.explain(new, {"params": own}, x, 2).completeness_error.max() <= 1e-6


def test_pictures_of_any_size():
  function, variables = shop_function(None)
  with pytest.raises(InputError, match=r"reads pictures of any size.*image_size"):
    program.as_network(function, variables=variables)
  model, variables = shop(None)
  new, own = new_head(model, variables, 3, jax.random.key(1))
  assert new.apply(own, model.ops.encoding(photos(2, 16)[..., :1])).shape == (2, 3)


def test_a_head_behind_nothing_and_one_of_a_single_class():
  model, variables = shop(classes=1)
  with pytest.raises(InputError, match="head cannot be replaced"):
    new_head(model, variables, 3, jax.random.key(1))
  function, variables = shop_function()
  constants = {argument: variables[name] for argument, name in function.bound.items()}
  bare = dataclasses.replace(function, bound={}, described={}, constants=constants)
  with pytest.raises(InputError, match="outputs of no variable in place of 10"):
    bare.with_classes(3, (1, 16, 16))


def test_what_was_not_saved_is_drawn():
  model, _ = shop()
  made = model.init(jax.random.key(0), jax.numpy.zeros((1, 16, 16, 1)))["params"]
  assert not made["fc.bias"].any() and np.std(made["fc.weight"]) > 0.1
  assert np.asarray(model.apply({"params": made}, photos(2, 16)[..., :1])).any()


def test_inputs_have_the_precision_of_the_program():
  function, variables = shop_function(dtype="bfloat16")
  halves = {name: leaf.astype(jax.numpy.bfloat16) for name, leaf in variables.items()}
  described = {
    name: dataclasses.replace(spec, dtype=jax.numpy.dtype("bfloat16"))
    for name, spec in function.described.items()
  }
  function = dataclasses.replace(function, described=described)
  x = np.float32(photos(2, 16)[..., :1].transpose(0, 3, 1, 2))
  assert function(halves, x).dtype == jax.numpy.bfloat16
  function, variables = shop_function(dtype="uint8")
  with pytest.raises(InputError, match="reads uint8, expected floating-point numbers"):
    program.as_network(function, variables=variables)


def test_a_head_that_others_share_is_not_replaced(network):
  model, variables = network
  with pytest.raises(InputError, match=r"outputs of head\.bias, mlp\.0\.weight in place of 8"):
    new_head(model, variables, 3, jax.random.key(1))


def test_the_loop_fine_tunes_it(tmp_path, monkeypatch):
  """B-cosified, with a new head, on pictures in folders, by the recipe for one's own pictures."""
  model, variables = shop(classes=4)
  bundle = bcos_jax.save(tmp_path / "bundle", model, variables)
  for i, image in enumerate(photos(24, 20)[..., :1]):
    kind = tmp_path / "pictures" / ("light" if i % 2 else "dark")
    kind.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(255 * image[..., 0] * (0.9 if i % 2 else 0.3))).save(kind / f"{i}.png")
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  given = {"init": bundle, "data.folder": tmp_path / "pictures", "steps": 4, "calibrate": 16}
  options = [f"--config.{name}={value}" for name, value in given.items()]
  run("train", "--config=finetune", "--workdir", tmp_path / "run", *options)
  made = bcos_jax.load(tmp_path / "run" / "bundle")
  assert made.labels == ("dark", "light") and not made.model.ops.conventional
  ex = made.explain(str(tmp_path / "pictures" / "dark" / "0.png"), "light")
  assert ex.completeness_error.max() <= 1e-6


def test_what_programs_cannot_be(function, network):
  with pytest.raises(InputError, match="variables are missing"):
    program.as_network(function[0])
  with pytest.raises(InputError, match=r"returns \(1, 8\) for one picture, expected \(1, 5\)"):
    program.as_network(function[0], variables=function[1], num_classes=5)
  with pytest.raises(InputError, match="is a function, which does not say how it is built again"):
    program.as_network(lambda v, x: x, image_size=8)
  with pytest.raises(InputError, match="returns 8 classes, and cannot be made one of features"):
    network[0].with_classes(0)
  with pytest.raises(InputError, match="of 1 colour channels, the network reads"):
    convert.from_exported(FILE, encoding=Encoding((0.5,), (0.2,)))
  with pytest.raises(InputError, match="7 labels for 8 classes"):
    convert.from_exported(FILE, labels=NAMES[:7])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pictures")
  for i, image in enumerate(pictures(24)):
    Image.fromarray(np.uint8(255 * image)).save(folder / f"{i:02}.png")
  (folder / "labels.txt").write_text("\n".join(NAMES))
  return folder


def test_commands_from_a_program_to_explanations_and_back(folder, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  options = ("--mean=0.5,0.4,0.3", "--std=0.2,0.25,0.3", "--labels", folder / "labels.txt")
  run("convert", FILE, tmp_path / "bundle", *options)
  out = capsys.readouterr().out
  assert "544 parameters, pictures of 12x12 pixels, 8 classes" in out
  read = bcos_jax.load(tmp_path / "bundle")
  assert read.model.ops.encoding == COLORS and read.labels == NAMES
  run("bcosify", tmp_path / "bundle", tmp_path / "bcos", "--pictures", folder, "--count=24")
  out = capsys.readouterr().out
  assert "explanations before and after" in out and not (tmp_path / "bcos.calibration").exists()
  assert bcos_jax.load(tmp_path / "bcos").config["provenance"]["calibrated"]["count"] == 24
  run("check", tmp_path / "bcos")
  assert "affine in the input" in capsys.readouterr().out
  run("explain", tmp_path / "bcos", folder / "00.png", "--output", tmp_path / "maps")
  assert list((tmp_path / "maps").glob("*.png"))
  run("convert", tmp_path / "bundle", tmp_path / "back.safetensors", "--to=state_dict")
  state = {k: t.read() for k, t in read_safetensors(tmp_path / "back.safetensors").items()}
  function, variables = convert.from_torch(FILE)
  expected = function.state_dict(variables)
  assert state.keys() == expected.keys()
  assert all(np.array_equal(state[name], expected[name]) for name in state)
  capsys.readouterr()
  run("convert", tmp_path / "bcos", tmp_path / "no.safetensors", "--to=state_dict", code=2)
  assert "kernels for [z, -z]" in capsys.readouterr().err
  assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      ["--architecture=resnet18"],
      "--architecture=resnet18 would do nothing: small.pt2 is a program",
    ),
    (["--mean=0.5,x,1", "--std=1,1,1"], "--mean is 0.5,x,1, expected one number per colour"),
    (["--mean=0.5,0.5,0.5"], "--std is missing"),
    (["--image_size=24"], "24"),
    (["--to=timm"], "timm"),
  ],
)
def test_options_that_do_not_fit(options, message, tmp_path, capsys):
  run("convert", FILE, tmp_path / "bundle", *options, code=2)
  assert message in capsys.readouterr().err
  assert not (tmp_path / "bundle").exists()


def test_a_program_is_loaded_with_a_warning():
  with pytest.warns(UserWarning, match="does not say how pictures are normalised"):
    read = bcos_jax.load(FILE)
  assert read.model.ops.encoding.mean == (0.0,) * 3
  assert read.explain(pictures(1), 2).completeness_error.max() <= 3e-6
  with pytest.raises(InputError, match="Leave out architecture"):
    bcos_jax.load(FILE, architecture="resnet18")
