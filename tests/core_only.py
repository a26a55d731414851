"""What works without any extra; run by a test that hides them, and by `make test-wheel`.

python tests/core_only.py FOLDER: converts, B-cosifies, explains and draws a network in this folder,
and checks that what needs an extra names it in one line.
"""

import contextlib
import io
import pathlib
import sys

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

import bcos_jax
from bcos_jax import cli, errors, render
from bcos_jax.text import tokenizer


def torchvision_resnet18(seed=0):
  """Returns random weights under the names that torchvision's ResNet-18 has."""
  rng, weights = np.random.default_rng(seed), {}

  def convolution(name, filters, channels, side):
    scale = (2 / (channels * side**2)) ** 0.5
    weights[f"{name}.weight"] = scale * rng.standard_normal((filters, channels, side, side))

  def norm(name, channels):
    for field in ("weight", "running_var"):
      weights[f"{name}.{field}"] = rng.uniform(0.5, 1.5, channels)
    for field in ("bias", "running_mean"):
      weights[f"{name}.{field}"] = 0.1 * rng.standard_normal(channels)

  convolution("conv1", 64, 3, 7)
  norm("bn1", 64)
  before = 64
  for stage, width in enumerate((64, 128, 256, 512), 1):
    for block, channels in enumerate((before, width)):
      name = f"layer{stage}.{block}"
      for i, inputs in ((1, channels), (2, width)):
        convolution(f"{name}.conv{i}", width, inputs, 3)
        norm(f"{name}.bn{i}", width)
      if channels != width:
        convolution(f"{name}.downsample.0", width, channels, 1)
        norm(f"{name}.downsample.1", width)
    before = width
  weights["fc.weight"] = 0.1 * rng.standard_normal((1000, 512))
  weights["fc.bias"] = np.zeros(1000)
  return {name: value.astype(np.float32) for name, value in weights.items()}


def run(*arguments, code=0):
  """Runs a command line; returns the lines that it said about a failure."""
  said = io.StringIO()
  with contextlib.redirect_stderr(said):
    assert cli.main([str(argument) for argument in arguments]) == code, said.getvalue()
  return said.getvalue().splitlines()


def explain_and_draw(bundle, folder):
  images = np.random.default_rng(1).uniform(size=(2, 64, 64, 3)).astype(np.float32)
  ex = bcos_jax.explain(bundle.model, bundle.variables, images)
  total = ex.contributions.sum((1, 2)) + ex.residual
  np.testing.assert_allclose(total, ex.value, rtol=1e-4, atol=1e-4 * float(np.abs(ex.value).max()))
  render.figure(ex, 0, path=folder / "figure.png")
  with Image.open(folder / "figure.png") as picture:
    assert len(np.unique(np.asarray(picture).reshape(-1, 4), axis=0)) > 100  # not a blank page


def check_extras(folder):
  """Every door to what an extra has says its name in the line of the cause, with exit code 2."""
  for extra, arguments in (
    ("train", ["train", "--config=digits:scratch", f"--workdir={folder / 'run'}"]),
    ("train", ["compile", "--config=digits", "--topology=v5e:2x2"]),
    ("train", ["evaluate", folder / "bcos", "--dataset=digits"]),
    ("train", ["probe", folder / "bcos", "--dataset=digits"]),
    ("train", ["prepare", "imagenet2012", f"--archives={folder}"]),
    ("train", ["study", "b-sweep", f"--workdir={folder / 'studies'}"]),
    ("train", ["quickstart", f"--workdir={folder / 'quickstart'}"]),
    ("text", ["convert", "someone/network", folder / "other"]),
    ("app", ["app", folder / "bcos", "--port=0"]),
  ):
    cause, fix = run(*arguments, code=2)
    assert f"extra {extra!r}" in cause, cause
    assert f'pip install "bcos_jax[{extra}]"' in fix, fix
  for extra, use in (
    ("train", lambda: bcos_jax.train),
    ("train", lambda: bcos_jax.studies),
    ("text", lambda: tokenizer.read_tokenizer(folder)),
  ):
    try:
      use()
    except errors.MissingExtra as error:
      assert isinstance(error, ImportError) and f"extra {extra!r}" in error.cause
    else:
      raise AssertionError(f"the extra {extra!r} is there")


def main(folder):
  folder = pathlib.Path(folder)
  save_file(torchvision_resnet18(), folder / "resnet18.safetensors")
  run("models", "resnet18")
  run("convert", folder / "resnet18.safetensors", folder / "plain", "--architecture=resnet18")
  run("bcosify", folder / "plain", folder / "bcos")
  explain_and_draw(bcos_jax.load(folder / "bcos"), folder)
  check_extras(folder)
  print(f"{bcos_jax.__version__} works without extras: {pathlib.Path(bcos_jax.__file__).parent}")


if __name__ == "__main__":
  main(sys.argv[1])
