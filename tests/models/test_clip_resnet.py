"""CLIP's ResNets and text towers: tests beyond the generic ones of architectures."""

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, convert
from bcos_jax.errors import InputError
from bcos_jax.io import bundles

from ..common import applied, filled, flat, photos, rel, tiny

SIDE = 32


def _network(**fields):
  model = tiny("clip_resnet_test", StandardOps(), image_size=SIDE, features=10, **fields)
  return model, filled(model)


@pytest.mark.parametrize("pooling", ["attention", "none"])
def test_b_1_computes_the_original_and_keeps_every_weight(pooling):
  model, variables = _network(pooling=pooling)
  images = photos(2, side=SIDE)
  expected = applied(model)(variables, images)
  assert expected.shape == ((2, 10) if pooling == "attention" else (2, 4, 4, 10))
  ops = BcosOps.equivalent()
  bcos, bcosified = bcos_jax.bcosify(model, variables, ops=ops)
  assert rel(applied(bcos)(bcosified, images), expected) <= 1e-5

  # The authors' code leaves the maps of the pooling at random values.
  _, published = bcos_jax.bcosify(model, variables)
  source, made = flat(variables), flat(published)
  pool = {path for path in source if "attnpool" in path and path.endswith("kernel")}
  assert pool == {path for path in made if "attnpool" in path}
  assert all(np.array_equal(made[path], source[path]) for path in pool)


def test_positions_follow_the_image_size():
  model, variables = _network()
  images = photos(2, side=48)[:, :32]
  ex = bcos_jax.explain(model, variables, images, target=lambda y: y[:, 0])
  assert ex.logits.shape == (2, 10)
  assert ex.completeness_error.max() <= 1e-5
  assert np.abs(ex.residuals["position"]).min() > 0
  # The mean has a row of its own, which is not resized.
  moved = jax.tree.map(np.array, variables)
  moved["params"]["attnpool"]["position"][0] += 1
  assert rel(applied(model)(moved, images), applied(model)(variables, images)) > 1e-3


def test_unpooled_features_have_unit_length_and_explanations():
  model, variables = _network()
  bcos, variables = bcos_jax.bcosify(model, variables)
  unpooled = bcos.clone(pooling="none")
  images = photos(2, side=SIDE)
  ex = bcos_jax.explain(unpooled, variables, images, target=lambda y: y[..., 3].sum((1, 2)))
  lengths = np.linalg.norm(ex.logits, axis=-1)
  assert lengths.shape == (2, 4, 4) and np.allclose(lengths, 1, atol=1e-5)
  assert ex.completeness_error.max() <= 1e-5
  assert set(ex.residuals) == {"unexplained"}


def test_a_pooled_file_fills_the_unpooled_network():
  model, variables = _network()
  state = convert.to_state_dict(bundles.make_bundle(model, variables), "openai_clip")
  fields = {"image_size": SIDE}
  unpooled = convert.from_state_dict(
    state, "clip_resnet_test", fields={**fields, "pooling": "none"}
  )
  again = convert.to_state_dict(unpooled)
  assert again.keys() == state.keys()
  assert all(np.array_equal(again[key], tensor) for key, tensor in state.items())
  pooled = convert.from_state_dict(state, "clip_resnet_test", fields=fields)
  assert pooled.model.pooling == "attention" and not any("attnpool" in key for key in pooled.extras)


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"pooling": "max"}, "pooling"),
    ({"num_classes": 3}, "features"),
    ({"image_size": 4}, "pixels"),
  ],
)
def test_refused(fields, words):
  ops = StandardOps()
  model = bcos_jax.create("clip_resnet_test", ops=ops, **fields)
  with pytest.raises(InputError, match=words):
    jax.eval_shape(model.init, jax.random.key(0), model.input_spec)


def _text(name="clip_text_test", **fields):
  model = bcos_jax.create(name, ops=StandardOps(), **fields)
  return model, model.init(jax.random.key(0), np.zeros((1, 8), np.int32))


def test_text_towers_are_not_bcosified():
  model, variables = _text()
  with pytest.raises(InputError, match="token ids"):
    bcos_jax.bcosify(model, variables)


def test_tokens_see_only_those_before_them():
  tokens = np.array([[1, 5, 49, 3, 4, 2, 6, 7]], np.int32)
  changed = np.array([[1, 5, 49, 9, 8, 2, 6, 7]], np.int32)
  model, variables = _text()
  run = jax.jit(model.apply)
  assert np.array_equal(run(variables, tokens), run(variables, changed))
  first = np.array([[2, 5, 49, 3, 4, 2, 6, 7]], np.int32)
  assert rel(run(variables, first), run(variables, tokens)) > 1e-3
  model, variables = _text("siglip_text_test")
  run = jax.jit(model.apply)
  assert rel(run(variables, changed), run(variables, tokens)) > 1e-3


def test_the_token_that_stands_for_a_text():
  tokens = np.array([[1, 48, 40, 3, 48, 2, 6, 7]], np.int32)
  _, variables = _text()
  by_pool = {}
  for pool, eos in (("highest", 0), ("eos", 40), ("eos", 48), ("last", 0)):
    model, _ = _text(pool=pool, eos_token=eos)
    by_pool[pool, eos] = model.apply(variables, tokens)
  # The first of several, and the first of the highest.
  assert np.array_equal(by_pool["highest", 0], by_pool["eos", 48])
  assert rel(by_pool["eos", 40], by_pool["eos", 48]) > 1e-3
  assert rel(by_pool["last", 0], by_pool["eos", 48]) > 1e-3


def test_unknown_tokens_are_seen():
  model, variables = _text()
  for token in (50, -1):
    tokens = np.array([[1, token, 49, 0, 0, 0, 0, 0]], np.int32)
    assert np.isnan(model.apply(variables, tokens)).all()


@pytest.mark.parametrize("tokens", [np.zeros((1, 9), np.int32), np.zeros((1, 8), np.float32)])
def test_refused_tokens(tokens):
  model, variables = _text()
  with pytest.raises(InputError, match="token ids"):
    model.apply(variables, tokens)


def test_text_bundles_have_no_preprocessing(tmp_path):
  model, variables = _text()
  bundle = bundles.make_bundle(model, variables, provenance={"source": "openai_clip"})
  assert bundle.preprocess is None and bundle.config["preprocess"] is None
  bundles.save(tmp_path / "text", model, variables)
  loaded = bundles.load(tmp_path / "text")
  assert loaded.model == model and loaded.preprocess is None
  leaves = flat(loaded.variables)
  assert all(np.array_equal(leaves[path], leaf) for path, leaf in flat(variables).items())
