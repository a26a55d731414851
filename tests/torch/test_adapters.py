"""Captum's and Quantus' metrics on networks and maps of this package; documented examples."""

import contextlib
import io
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")
captum_metrics = pytest.importorskip("captum.metrics", reason="part of `make test-torch`")

import bcos_jax  # noqa: E402
from bcos_jax import BcosOps, attribution, metrics  # noqa: E402

from ..common import ROOT, filled, photos, rel, tiny  # noqa: E402
from ..metrics.test_metrics import SIX, linear, refused  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::UserWarning")]

IMAGES, TARGETS = photos(3), np.array([0, 2, 1])
PICTURES = np.moveaxis(IMAGES, -1, 1)


def network():
  """A linear network of six channels, whose explanations are exact, and its module."""
  model, variables, _ = linear(side=16, encoding=SIX)
  variables["params"]["weights"] /= 100  # Probabilities that are not 0 and 1.
  layers = metrics.layers_of(model, IMAGES)
  return model, variables, metrics.torch_module(model, variables, layers=layers, batch_size=2)


def quantus():
  # Not only where it is missing: its OpenCV needs libGL of the system.
  return pytest.importorskip("quantus", reason="it cannot be imported", exc_type=ImportError)


def quietly(metric, **arguments):
  with contextlib.redirect_stdout(io.StringIO()):
    return metric(channel_first=True, **arguments)


def test_a_module_computes_what_the_network_does():
  model = tiny("resnet_tiny", BcosOps.v2())
  variables = filled(model)
  module = metrics.torch_module(model, variables, batch_size=2)
  found = module(torch.from_numpy(PICTURES))
  assert found.dtype == torch.float32 and not found.requires_grad
  assert rel(found, metrics.logits_of(model, variables, IMAGES)) < 1e-6
  assert rel(module(PICTURES + 2), module(np.ones_like(PICTURES))) == 0


def test_attributions_have_channels_first():
  model, variables, _ = network()
  ex = bcos_jax.explain(model, variables, IMAGES, target=TARGETS)
  shapes = {"color": 3, "channel": 6, "pixel": 1}
  for per, channels in shapes.items():
    found = metrics.to_captum(ex, per)
    assert found.shape == (3, channels, 16, 16) and found.dtype == np.float32
    assert rel(found.sum(1), ex.contributions) < 1e-5
  parts = ex.inputs * ex.weights
  assert rel(metrics.to_captum(ex)[:, 1], parts[..., 1] + parts[..., 4]) < 1e-6
  assert rel(metrics.to_captum(ex, "channel")[:, 4], parts[..., 4]) < 1e-6
  np.testing.assert_array_equal(metrics.to_captum(ex.contributions)[:, 0], ex.contributions)


def test_captum_finds_linear_networks_faithful():
  model, variables, module = network()
  ex = bcos_jax.explain(model, variables, IMAGES, target=TARGETS)
  # Infidelity compares perturbation times slope with the change of the output. By colour, x and
  # 1 - x rise and fall together, so the slope of a linear network is that of both.
  slope = ex.weights[..., :3] - ex.weights[..., 3:]
  slopes = torch.from_numpy(np.moveaxis(slope, -1, 1).copy())

  def darken(pictures):
    dark = 0.5 * pictures * torch.rand_like(pictures)
    return dark, pictures - dark

  inputs, target = torch.from_numpy(PICTURES), torch.from_numpy(TARGETS)
  found = captum_metrics.infidelity(module, darken, inputs, slopes, target=target)
  turned = captum_metrics.infidelity(module, darken, inputs, -slopes, target=target)
  assert (found < 1e-9).all() and (turned > 1e-6).all()


def test_captum_measures_sensitivity():
  _, _, module = network()
  inputs = torch.from_numpy(PICTURES)
  explain = metrics.captum_explainer(module)
  found = captum_metrics.sensitivity_max(explain, inputs, target=torch.from_numpy(TARGETS))
  assert found.shape == (3,) and ((0 < found) & (found < 0.1)).all()
  saliency = metrics.captum_explainer(module, "saliency")  # that of a linear network stays
  assert (captum_metrics.sensitivity_max(saliency, inputs, target=1) == 0).all()


def test_quantus_explains_networks():
  quantus()
  model, variables, module = network()
  own = metrics.quantus_explainer()(module, PICTURES, TARGETS, device="cpu")
  ex = bcos_jax.explain(model, variables, IMAGES, target=TARGETS)
  assert rel(own, ex.contributions[:, None]) < 1e-6
  named = metrics.quantus_explainer("input_x_gradient")(module, PICTURES, TARGETS)
  expected = attribution.input_x_gradient(model, variables, IMAGES, TARGETS)
  assert rel(named, expected[:, None]) < 1e-6


def test_quantus_localises_as_we_do():
  library = quantus()
  _, _, module = network()
  regions = np.zeros((3, 16, 16), bool)
  regions[:, 2:9, 3:12] = True
  explain = metrics.quantus_explainer()
  maps = explain(module, PICTURES, TARGETS)
  pointing = library.PointingGame(abs=False, normalise=False, disable_warnings=True)
  given = {"x_batch": PICTURES, "y_batch": TARGETS, "s_batch": regions[:, None]}
  found = quietly(pointing, model=module, explain_func=explain, **given)
  assert np.array_equal(found, metrics.pointing_game(maps[:, 0], regions).scores)
  mass = library.AttributionLocalisation(
    abs=False, normalise=False, positive_attributions=True, disable_warnings=True
  )
  positive = maps.clip(min=0)
  found = quietly(mass, model=None, a_batch=positive, **given)
  assert rel(found, metrics.energy_pointing_game(positive[:, 0], regions).scores) < 1e-5


def test_quantus_flips_pixels_and_measures_sparseness():
  library = quantus()
  model, variables, module = network()
  maps = metrics.quantus_explainer()(module, PICTURES, TARGETS)
  flip = library.PixelFlipping(
    features_in_step=64, perturb_baseline=0.0, normalise=False, disable_warnings=True
  )
  given = {"x_batch": PICTURES, "y_batch": TARGETS, "a_batch": maps}
  found = quietly(flip, model=module, softmax=True, **given)
  assert np.shape(found) == (3, 12)  # It flips single colour values.
  black = metrics.logits_of(model, variables, np.zeros_like(IMAGES))
  shares = np.exp(black) / np.exp(black).sum(1, keepdims=True)
  assert rel(np.array(found)[:, -1], shares[np.arange(3), TARGETS]) < 1e-5
  sparse = quietly(library.Sparseness(disable_warnings=True), model=None, **given)
  one = np.zeros_like(maps)
  one[:, :, 3, 4] = 1
  given["a_batch"] = one
  best = quietly(library.Sparseness(disable_warnings=True), model=None, **given)
  assert np.max(sparse) < np.min(best)


@pytest.mark.parametrize("order", ["top_down", "independent"])
def test_quantus_randomises_layers(order):
  library = quantus()
  model = tiny("vgg_tiny", BcosOps.v2())
  variables = filled(model)
  layers = metrics.layers_of(model, IMAGES)[:2]
  module = metrics.torch_module(model, variables, layers=layers)
  explain = metrics.quantus_explainer()
  given = {"x_batch": PICTURES, "y_batch": TARGETS, "a_batch": explain(module, PICTURES, TARGETS)}
  test = library.MPRT(layer_order=order, disable_warnings=True)
  found = quietly(test, model=module, explain_func=explain, **given)
  first = layers if order == "top_down" else layers[::-1]
  assert [name.removeprefix("layers.") for name in found] == ["original", *first]
  np.testing.assert_allclose(found["original"], 1, rtol=1e-5)
  assert all(np.mean(found[f"layers.{layer}"]) < 0.99 for layer in layers)
  # The module that was given is as it was: a copy was randomised.
  assert rel(module(PICTURES), metrics.logits_of(model, variables, IMAGES)) < 1e-6


def test_what_cannot_be_adapted_is_refused():
  model, variables, _ = network()
  several = bcos_jax.explain(model, variables, IMAGES, target=np.zeros((3, 2), int))
  one = bcos_jax.explain(model, variables, IMAGES)
  refused(lambda: metrics.to_captum(several), "(3, 2, 16, 16, 6)")
  refused(lambda: metrics.to_captum(one, "colour"), "'color'")
  refused(lambda: metrics.to_captum(np.ones((16, 16))), "(16, 16)")
  refused(lambda: metrics.quantus_explainer("saliencey"), "'saliency'")
  refused(lambda: metrics.quantus_explainer()(torch.nn.ReLU(), PICTURES, TARGETS), "ReLU")
  refused(lambda: metrics.torch_module(model, variables, layers=("weight",)), "'weights'")
  refused(lambda: metrics.torch_module(model, variables, batch_size=0), "batch_size=0")


def test_the_examples_of_the_documentation_run():
  quantus()
  page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
  examples = re.findall(r"test_adapters.py runs it -->\n```python\n(.*?)```", page, re.S)
  assert len(examples) == 2
  model, variables, _ = network()
  masks = np.zeros((3, 16, 16), bool)
  masks[:, 2:9, 3:12] = True
  known = {
    "bcos_jax": bcos_jax,
    "metrics": metrics,
    "model": model,
    "variables": variables,
    "images": IMAGES,
    "targets": TARGETS,
    "masks": masks,
    "explainer": metrics.attribute_with(model, variables),
  }
  with contextlib.redirect_stdout(io.StringIO()):
    for example in examples:
      exec(example, known)
  assert np.shape(known["flipped"]) == (3, 48) and np.shape(known["localised"]) == (3,)
  assert set(known["randomised"]) == {"original", "layers.weights"}
  assert known["unfaithful"].shape == known["sensitive"].shape == (3,)
