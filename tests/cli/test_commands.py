"""`bcos-jax convert` and `bcosify` from the command line, without PyTorch."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import bcos_jax
from bcos_jax import StandardOps, cli, convert
from bcos_jax.io import bundles
from bcos_jax.io.tensor_files import write_safetensors

from .. import torch_files
from ..common import filled, flat, tiny

NAME = "resnet_tiny"


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)


@pytest.fixture(scope="module")
def state():
  model = tiny(NAME, StandardOps(), image_size=32)
  bundle = bundles.make_bundle(model, filled(model), provenance={"source": "torchvision"})
  return {key: np.array(tensor) for key, tensor in convert.to_state_dict(bundle).items()}


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
  path = tmp_path_factory.mktemp("source") / "model.safetensors"
  write_safetensors(path, state)
  return path


def run(*arguments):
  return cli.main([str(argument) for argument in arguments])


def test_there_and_back(file, state, tmp_path, capsys):
  assert run("convert", file, tmp_path / "bundle", f"--architecture={NAME}") == 0
  printed = capsys.readouterr().out
  for part in (
    "params/layer{i}_{j}/conv{k}/kernel",
    "counts updates, used by nothing",
    f"{len(state)} keys of",
    "0 unexplained",
  ):
    assert part in printed
  back = tmp_path / "back.safetensors"
  assert run("convert", tmp_path / "bundle", back, "--to=torchvision") == 0
  written = load_file(back)
  assert written.keys() == state.keys()
  assert all(written[key].tobytes() == array.tobytes() for key, array in state.items())


def test_a_dry_run_writes_nothing(file, tmp_path, capsys):
  assert run("convert", file, tmp_path / "a", f"--architecture={NAME}", "--dry-run") == 0
  assert "dry run: nothing is written" in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


def test_bcosify_writes_the_network_that_bcosify_makes(file, tmp_path, capsys):
  assert run("convert", file, tmp_path / "plain", f"--architecture={NAME}") == 0
  options = ("--ops", "b=1.5", "--ops", "use_bias=true", "--ops", "pool=max")
  assert run("bcosify", tmp_path / "plain", tmp_path / "bcos", *options) == 0
  assert "b 1.5, weights plain, pool max, biases kept" in capsys.readouterr().out
  plain, made = bcos_jax.load(tmp_path / "plain"), bcos_jax.load(tmp_path / "bcos")
  ops = bcos_jax.BcosOps(b=1.5, use_bias=True, pool="max")
  model, variables = bcos_jax.bcosify(plain.model, plain.variables, ops=ops)
  assert made.model == model
  expected = flat(variables)
  assert all(np.array_equal(leaf, expected[path]) for path, leaf in flat(made.variables).items())
  # The authors' networks have no biases, so these weights have no place in their files.
  assert run("convert", tmp_path / "bcos", tmp_path / "a.safetensors", "--to=bcosification") == 2
  assert run("bcosify", tmp_path / "plain", tmp_path / "published") == 0
  file = tmp_path / "file.safetensors"
  assert run("convert", tmp_path / "published", file, "--to=bcosification") == 0
  assert "model.conv1.linear.weight" in load_file(file)


@pytest.mark.parametrize(
  "arguments, word",
  [
    (["--ops", "pol=max"], "'pool'"),
    (["--ops", "b"], "FIELD=VALUE"),
    (["--ops", "b=0.5"], "0.5"),
    (["--ops", "detach=true"], "detach=True"),
    (["--ops", "encoding=3"], "encoding is 3, expected some of its fields: mean, std, pairing"),
    (["--ops", "weights=units"], "Did you mean 'unit'"),
    (["--ops", "b=true"], "B is True"),
    (["--ops", "b_per_layer=3"], "b_per_layer is 3, expected a tuple of finite numbers"),
    (["--ops", "learn_b=3"], "learn_b is 3, expected true or false"),
    (["--ops", "use_bias=yes"], "use_bias is 'yes', expected true or false"),
    (["--ops", "norm_bias=x"], "expected true or false or none"),
    (["--ops", "max_out=1.5"], "max_out is 1.5, expected a whole number"),
    (["--ops", "norm_groups=0"], "norm_groups is 0, expected at least 1"),
    (["--ops", "logit_bias=x"], "logit_bias is 'x', expected a finite number or none"),
    (["--ops", "logit_temperature=true"], "logit_temperature is True"),
    (["--ops", "encoding={'mean': 3}"], "mean is 3, expected one number per colour channel"),
    (["--ops", "conv_guard={'eps': -1}"], "a guard has eps -1".capitalize()),
    (["--ops", "conv_guard={'inside': 'x'}"], "inside is 'x', expected true or false"),
  ],
)
def test_bcosify_names_what_is_wrong(arguments, word, file, tmp_path, capsys):
  run("convert", file, tmp_path / "plain", f"--architecture={NAME}")
  assert run("bcosify", tmp_path / "plain", tmp_path / "bcos", *arguments) == 2
  assert word in capsys.readouterr().err
  assert not (tmp_path / "bcos").exists()


def test_a_bundle_is_told_from_a_repository(file, tmp_path, capsys):
  run("convert", file, tmp_path / "plain", f"--architecture={NAME}")
  assert run("convert", tmp_path / "plain", tmp_path / "again") == 2
  assert "is a bundle already" in capsys.readouterr().err
  # A repository that another tool wrote is never replaced.
  (tmp_path / "plain" / "config.json").write_text('{"model_type": "resnet"}')
  assert run("convert", file, tmp_path / "plain", f"--architecture={NAME}") == 2
  assert "not a bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
  "option", ["--num_classes=3", "--layout=timm", "--ema", "--dtype=float16", "--architecture=vgg11"]
)
def test_options_that_a_bundle_ignores_are_refused(option, tmp_path, capsys):
  model = bcos_jax.create("resnet_tiny", ops=StandardOps())
  bundle = bcos_jax.save(tmp_path / "bundle", model, filled(model))
  assert run("convert", bundle, tmp_path / "back", "--to=timm", option) == 2
  assert option.partition("=")[0] in capsys.readouterr().err
  assert not (tmp_path / "back").exists()


def test_a_new_head(file, tmp_path, capsys):
  arguments = (f"--architecture={NAME}", "--num_classes=3")
  assert run("convert", file, tmp_path / "bundle", *arguments) == 0
  assert "the head is reinitialised with 3 classes" in capsys.readouterr().out
  assert bcos_jax.load(tmp_path / "bundle").variables["params"]["head"]["kernel"].shape[-1] == 3


def test_checkpoints_of_trainings(state, tmp_path, capsys):
  """A Lightning file: wrapped, prefixed, with other entries; and its averaged weights."""
  averaged = {key: array + np.ones_like(array) for key, array in state.items()}
  arrays = {f"model.{key}": array for key, array in state.items()}
  arrays |= {f"ema.{key}": array for key, array in averaged.items()}
  saved = torch_files.state(arrays)
  value = {
    "epoch": 3,
    "state_dict": {key: value for key, value in saved.items() if key.startswith("model.")},
    "ema": {k.removeprefix("ema."): value for k, value in saved.items() if k.startswith("ema.")},
    "hyper_parameters": {"lr": 0.1},
  }
  torch_files.save(tmp_path / "last.ckpt", value, arrays)
  for name, flags, expected in (("a", (), state), ("b", ("--ema",), averaged)):
    done = run("convert", tmp_path / "last.ckpt", tmp_path / name, f"--architecture={NAME}", *flags)
    assert done == 0, capsys.readouterr().err
    kernel = bcos_jax.load(tmp_path / name).variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, expected["conv1.weight"].transpose(2, 3, 1, 0))


def test_orbax(file, tmp_path):
  import orbax.checkpoint as ocp

  assert run("convert", file, tmp_path / "orbax", f"--architecture={NAME}", "--to=orbax") == 0
  with ocp.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore((tmp_path / "orbax" / "variables").absolute())
  expected = flat(convert.from_pretrained(file, NAME).variables)
  assert all(np.array_equal(leaf, expected[path]) for path, leaf in flat(variables).items())


def test_without_pytorch_verification_says_so(file, tmp_path, capsys, monkeypatch):
  find = convert.original.importlib.util.find_spec
  monkeypatch.setattr(
    convert.original.importlib.util,
    "find_spec",
    lambda name: None if name == "torch" else find(name),
  )
  assert run("convert", file, tmp_path / "a", f"--architecture={NAME}", "--verify") == 0
  assert "not verified against PyTorch: PyTorch is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("init", "way"),
  [
    ("bundles/resnet50_v1", "bcos-jax convert SOURCE bundles/resnet50_v1"),
    ("runs/mine/bundle", "bcos-jax train --config=RECIPE --workdir=runs/mine"),
  ],
)
@pytest.mark.parametrize("flag", [(), ("--download",)])
def test_a_missing_init_says_what_makes_it(init, way, flag, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  recipe = ("--config=digits:bcosify", f"--config.init={init}", "--workdir=w/run")
  assert run("train", *recipe, *flag) == 2
  cause, fix = capsys.readouterr().err.strip().splitlines()
  assert f"There is no file or folder {init!r}" in cause and f"Make it with: {way}" in fix
  assert list(tmp_path.iterdir()) == []
