"""B-cosification: the same function at B=1, a declared change everywhere else."""

import copy

from flax import linen as nn
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, StandardOps
from bcos_jax.bcosify import widen_input
from bcos_jax.errors import InputError

from ..common import (
  TINY,
  applied,
  filled,
  flat,
  photos,
  rel,
  shapes,
  tiny,
  unflat,
)

IMAGES = photos(3)


COMMON = ("resnet_tiny", "vitc_tiny", "densenet_tiny")


def _conventional(name="resnet_tiny", **fields):
  model = tiny(name, StandardOps(**fields))
  return model, filled(model)


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=pytest.mark.user_compiler if name in COMMON else ()) for name in TINY],
)
def test_b_1_computes_the_same_function(name):
  """With biases, statistics, scales and means that are all far from trivial."""
  model, variables = _conventional(name)
  twin, twins_variables = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent())
  assert isinstance(twin.ops, BcosOps) and twin.ops.b == 1
  logits, expected = applied(twin)(twins_variables, IMAGES), applied(model)(variables, IMAGES)
  # The images differ, and so do the logits: the comparison is not one of constants.
  # SqueezeNet's pass a ReLU, which leaves nothing of some.
  varied = np.std(np.asarray(expected), axis=0)[(np.asarray(expected) != 0).any(axis=0)]
  assert len(varied) >= 3 and varied.min() > 1e-3
  assert rel(logits, expected) <= 1e-5


@pytest.mark.parametrize(
  "fields", [{"norm": "batch"}, {"learn_b": True}, {"encoding": Encoding(pairing="none")}], ids=str
)
def test_b_1_computes_the_same_function_with_options(fields):
  """Centered norms keep their means; a B to be learned starts at 1; the input may stay as it is."""
  model, variables = _conventional()
  twin = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent(**fields))
  assert rel(applied(twin[0])(twin[1], IMAGES), applied(model)(variables, IMAGES)) <= 1e-5


def test_other_colors_and_deviations_travel():
  """The network's own normalisation is kept, one grey channel included."""
  model, variables = _conventional(encoding=Encoding((0.3,), (0.4,)))
  gray = IMAGES[..., :1]
  twin = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent())
  assert twin[0].ops.encoding == Encoding((0.3,), (0.4,), "negated")
  assert rel(applied(twin[0])(twin[1], gray), applied(model)(variables, gray)) <= 1e-5


def test_unfolded_means_are_dropped():
  """`fold_mean=False` copies the bias as it is (BnUnc2d): another function, the same tree."""
  model, variables = _conventional()
  folded = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent())
  raw = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent(), fold_mean=False)
  assert raw[0] == folded[0]
  for path, leaf in flat(raw[1]).items():
    source = flat(variables)[path]
    if path.endswith("bias") and "head" not in path:
      assert leaf is source
      norm = path.removeprefix("params/").removesuffix("/bias")
      stats = {kind: flat(variables)[f"batch_stats/{norm}/{kind}"] for kind in ("mean", "var")}
      scale = flat(variables)[f"params/{norm}/scale"]
      expected = source - stats["mean"] * scale / np.sqrt(stats["var"] + 1e-5)
      assert rel(flat(folded[1])[path], expected) <= 1e-6
  assert rel(applied(raw[0])(raw[1], IMAGES), applied(folded[0])(folded[1], IMAGES)) > 1e-3


def test_norms_without_running_statistics_copy_scale_and_bias():
  """Their own mean takes the place of the running one, so there is nothing to fold."""
  model, variables = _conventional()
  _, made = bcos_jax.bcosify(model, variables, ops=BcosOps(norm="instance", use_bias=True))
  assert "batch_stats" not in made
  for kind in ("scale", "bias"):
    path = f"params/layer1_0/bn1/{kind}"
    assert flat(made)[path] is flat(variables)[path]


@pytest.mark.parametrize("name", ["resnet_tiny_bottleneck", "vitc_tiny", "simple_vit_tiny"])
def test_published_setting_changes_only_what_is_declared(name):
  """B=2, no biases: leaves are shared with the conventional network, which is left alone."""
  model, variables = _conventional(name)
  before = copy.deepcopy(variables)
  new, made = bcos_jax.bcosify(model, variables)
  assert new.ops == BcosOps() and isinstance(model.ops, StandardOps)
  assert {path: leaf.shape for path, leaf in flat(made).items()} == {
    path: leaf.shape for path, leaf in shapes(new).items()
  }
  changed = {path for path, leaf in flat(made).items() if leaf is not flat(variables)[path]}
  assert changed == {f"params/{new.input_map}/kernel"}
  dropped = {path.rpartition("/")[2] for path in flat(variables).keys() - flat(made).keys()}
  assert dropped == ({"bias", "mean"} if "resnet" in name else {"bias"})
  assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))


def test_widened_weights_respond_alike():
  seeded = np.random.RandomState(0)
  kernel, z = seeded.standard_normal((3, 3, 3, 5)), seeded.standard_normal((2, 3, 3, 3))
  wide = np.asarray(widen_input(np.float32(kernel), 3))
  assert wide.shape == (3, 3, 6, 5)
  assert rel(wide[:, :, :3], kernel / 2) <= 1e-6 and rel(wide[:, :, 3:], -kernel / 2) <= 1e-6
  response = np.einsum("nhwc,hwco->no", np.concatenate([z, -z], -1), wide)
  assert rel(response, np.einsum("nhwc,hwco->no", z, kernel)) <= 1e-6


def test_widened_patch_embedding_keeps_channels_fastest():
  """[positions * 3, O] becomes [positions * 6, O], each position with its six channels."""
  kernel = np.random.RandomState(0).standard_normal((4 * 3, 5))
  wide = np.asarray(widen_input(np.float32(kernel), 3)).reshape(4, 2, 3, 5)
  assert rel(wide[:, 0], kernel.reshape(4, 3, 5) / 2) <= 1e-6
  assert rel(wide[:, 1], -kernel.reshape(4, 3, 5) / 2) <= 1e-6


@pytest.mark.parametrize(
  "fields",
  [
    {"use_bias": True},
    {"norm_bias": True},
    {"norm_scale": False},
    {"norm": "batch"},
    {"norm": "none"},
    {"norm": "none", "use_bias": True},
    {"norm": "instance_uncentered"},
    {"norm": "group", "norm_groups": 4},
    {"norm": "layer"},
    {"norm": "position_uncentered"},
    {"keep_activations": False},
    {"pool": "blur"},
    {"pool": "max"},
    {"head_order": "pool_first"},
    {"b": 1.5},
    {"weights": "unit"},
    {"weights": "cosine"},
    {"encoding": Encoding(pairing="complement")},
    {"dtype": "bfloat16"},
  ],
  ids=str,
)
def test_options_give_a_network_that_fits(fields):
  model, variables = _conventional()
  new, made = bcos_jax.bcosify(model, variables, ops=BcosOps(**fields))
  assert {path: leaf.shape for path, leaf in flat(made).items()} == {
    path: leaf.shape for path, leaf in shapes(new).items()
  }
  logits = jax.eval_shape(new.apply, made, jnp.zeros((2, 16, 16, 6)))
  assert logits.shape == (2, 5) and logits.dtype == jnp.float32


def test_complement_keeps_its_own_normalisation():
  """B-cos v2 sees plain colours: its encoding is not the conventional network's."""
  model, variables = _conventional()
  new, _ = bcos_jax.bcosify(model, variables, ops=BcosOps.v2())
  assert new.ops.encoding == BcosOps.v2().encoding


def test_learned_b_starts_everywhere_where_it_is_learned():
  model, variables = _conventional("vitc_tiny")
  _, made = bcos_jax.bcosify(model, variables, ops=BcosOps(b=1.25, learn_b=True))
  exponents = {path: leaf for path, leaf in flat(made).items() if path.endswith("/b")}
  maps = {path for path in flat(made) if path.endswith("kernel") and "qkv" not in path}
  assert {path.removesuffix("/b") for path in exponents} == {
    path.removesuffix("/kernel") for path in maps
  }
  assert all(leaf.shape == () and leaf == 1.25 for leaf in exponents.values())


def test_frozen_variables_are_accepted():
  model, variables = _conventional()
  _, expected = bcos_jax.bcosify(model, variables)
  _, made = bcos_jax.bcosify(model, flax.core.freeze(variables))
  assert jax.tree.all(jax.tree.map(np.array_equal, expected, flax.core.unfreeze(made)))


# Refusals.


class Foreign(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(x)


def test_only_conventional_networks_of_the_package():
  model, variables = _conventional()
  bcos, bcos_variables = bcos_jax.bcosify(model, variables)
  with pytest.raises(InputError, match=r"BcosOps, expected a conventional family.*already"):
    bcos_jax.bcosify(bcos, bcos_variables)
  with pytest.raises(InputError, match="Foreign"):
    bcos_jax.bcosify(Foreign(), variables)
  for wrong in (StandardOps(), BcosOps):
    with pytest.raises(InputError, match="expected a B-cos family"):
      bcos_jax.bcosify(model, variables, ops=wrong)


def test_explanation_mode_is_refused():
  model, variables = _conventional()
  with pytest.raises(InputError, match=r"detach=True.*Omit detach"):
    bcos_jax.bcosify(model, variables, ops=BcosOps(detach=True))


def test_every_problem_is_in_one_message():
  model, variables = _conventional()
  leaves = dict(flat(variables))
  del leaves["params/layer1_0/conv1/kernel"]
  leaves["params/layer1_0/conv2/kernel"] = np.zeros((3, 3, 8, 9), np.float32)
  leaves["params/conv9/kernel"] = np.zeros((1, 1, 2, 2), np.float32)
  with pytest.raises(InputError) as caught:
    bcos_jax.bcosify(model, unflat(leaves))
  for part in (
    r"params/layer1_0/conv1/kernel: wanted (3, 3, 8, 8)",
    "absent",
    r"params/layer1_0/conv2/kernel: wanted (3, 3, 8, 8)",
    "(3, 3, 8, 9)",
    "params/conv9/kernel: no place",
  ):
    assert part in caught.value.cause
  assert caught.value.fix


@pytest.mark.parametrize(
  "fields, path",
  [
    ({"max_out": 2}, "params/conv1/kernel"),
    ({"norm": "all"}, "params/bn1/scale"),
  ],
  ids=str,
)
def test_options_that_weights_cannot_follow(fields, path):
  model, variables = _conventional()
  with pytest.raises(InputError, match=path):
    bcos_jax.bcosify(model, variables, ops=BcosOps(**fields))


def test_variables_of_another_network():
  model, _ = _conventional()
  _, others = _conventional("resnet_tiny_bottleneck")
  with pytest.raises(InputError, match="layer1_0/conv3/kernel"):
    bcos_jax.bcosify(model, others)
  with pytest.raises(InputError, match="params/conv1/kernel"):
    bcos_jax.bcosify(model, {})
