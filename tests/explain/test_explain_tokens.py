"""Token contributions: complete in every family, zero for padding, not the gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Contrast, StandardOps, layers
from bcos_jax.errors import InputError
from bcos_jax.functional import CONV_GUARD
from bcos_jax.text.words import TextBatch, merged, word_spans, words_of_tokens

from ..common import filled, rel

LENGTH = 9
CASES = {
  "bert": ("bert_tiny", StandardOps()),
  "bert_lm": ("bert_tiny", BcosOps.lm(b=1.5)),
  "distilbert": ("distilbert_tiny", BcosOps.lm_plain(b=1.5)),
  "roberta": ("roberta_tiny", BcosOps.lm_plain(b=2.0, logit_bias=None)),
  "gpt2": ("gpt2_tiny", BcosOps.lm_plain(b=1.1)),
  "llama": ("llama_tiny", BcosOps.lm_decoder()),
}


def network(name, ops, **fields):
  model = bcos_jax.create(name, ops=ops, **{"depth": 1, "context_length": 12, **fields})
  return model, filled(model)


def texts(pad=1):
  ids = np.random.RandomState(0).randint(3, 60, (3, LENGTH)).astype(np.int32)
  mask = np.ones_like(ids)
  for row, length in ((0, 4), (2, 7)):
    ids[row, length:], mask[row, length:] = pad, 0
  return ids, mask


@pytest.fixture(scope="module")
def explained():
  """An explanation of each family, made once."""
  made = {}

  def get(name):
    if name not in made:
      model, variables = network(*CASES[name])
      ids, mask = texts()
      made[name] = (model, variables, bcos_jax.explain(model, variables, ids, mask=mask))
    return made[name]

  return get


@pytest.mark.parametrize("name", CASES)
def test_complete_in_named_parts_and_padding_is_zero(name, explained):
  model, _, ex = explained(name)
  _, mask = texts()
  biased = name not in ("bert_lm", "llama")
  assert ex.contributions.shape == mask.shape and ex.weights.shape == (3, LENGTH, model.width)
  assert (ex.contributions[mask == 0] == 0).all() and (ex.weights[mask == 0] == 0).all()
  assert ex.completeness_error.max() <= 2e-6
  assert rel(ex.contributions.sum(1) + ex.residual, ex.value) <= 1e-6
  assert rel(sum(ex.residuals.values()), ex.residual) <= 1e-4 or not biased
  assert rel(sum(ex.parts.values()), ex.contributions) <= 1e-5
  assert ex.residuals.keys() - {"logit_bias"} == {"unexplained"} | ({"bias"} if biased else set())
  decoder = name in ("gpt2", "llama")
  parts = {"word"} | ({"position"} if name != "llama" else set())
  parts |= {"token_type"} if name[0] in "br" else set()
  parts |= {"norm_bias"} if biased and not decoder else set()
  assert ex.parts.keys() == parts
  assert rel(np.take_along_axis(ex.logits, ex.target[:, None], 1)[:, 0], ex.value) == 0
  assert (ex.target == ex.logits.argmax(1)).all()
  if decoder:
    assert ex.at.tolist() == [3, 8, 6]


def test_lengths_and_batches_change_nothing(explained):
  model, variables, ex = explained("bert_lm")
  ids, mask = texts()
  cut = bcos_jax.explain(
    model, variables, ids, mask=mask, batch_size=2, buckets=(7,), keep_weights=False
  )
  assert rel(cut.contributions, ex.contributions) <= 1e-5
  assert rel(cut.parts["word"], ex.parts["word"]) <= 1e-5
  assert (cut.target == ex.target).all() and rel(cut.logits, ex.logits) <= 1e-5
  assert cut.weights.shape == (3, 0, 32) and (cut.ids * mask == ids * mask).all()
  assert rel(cut.mean_contributions * 32, ex.contributions) <= 1e-5
  with pytest.raises(InputError, match=r"Text 0.*left"):
    bcos_jax.explain(model, variables, ids[:, ::-1], mask=mask[:, ::-1], buckets=(4,))


def test_few_shapes_are_compiled_for(explained, caplog):
  """Texts of any length and in any number are padded to the next bucket and power of two."""
  model, variables, ex = explained("bert_lm")
  with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
    for more in range(3):
      ids, mask = (np.pad(array, ((0, 0), (0, more))) for array in texts())
      for count in (1, 2, 3):
        found = bcos_jax.explain(
          model, variables, ids[:count], mask=mask[:count], buckets=(LENGTH + 3,)
        )
        assert found.weights.shape == (count, LENGTH + more, model.width)
        assert rel(found.contributions[:, :LENGTH], ex.contributions[:count]) <= 1e-5
        assert (found.ids == ids[:count]).all() and not found.contributions[:, LENGTH:].any()
  compiled = [r.message for r in caplog.records if r.message.startswith("Compiling")]
  shapes = [re.search(rf"int32\[(\d),{LENGTH + 3}\]", message) for message in compiled]
  assert sorted(shape[1] for shape in shapes if shape) == ["1", "2", "4"]


def test_several_targets_and_contrasts(explained):
  model, variables, ex = explained("bert_lm")
  ids, mask = texts()
  both = bcos_jax.explain(model, variables, ids, np.array([[0, 1]] * 3), mask=mask)
  assert both.contributions.shape == (3, 2, LENGTH)
  assert rel(both.contributions.sum(2), ex.logits[:, :2]) <= 1e-5
  less = bcos_jax.explain(model, variables, ids, Contrast(0, [1, 1, 1]), mask=mask)
  assert rel(less.contributions, both.contributions[:, 0] - both.contributions[:, 1]) <= 1e-5
  assert rel(less.value, ex.logits[:, 0] - ex.logits[:, 1]) <= 1e-6
  shares = both.counting("word")
  assert rel(shares.contributions, both.parts["word"]) == 0
  assert rel(shares.residuals["position"], both.parts["position"].sum(-1)) == 0
  assert rel(shares.contributions.sum(-1) + shares.residual, shares.value) <= 1e-6
  assert rel(both.mean_contributions * model.width, both.contributions) <= 1e-6


def test_weights_are_not_the_gradient(explained):
  """Without biases and B=1.5 everything is complete only with the dynamic weights held."""
  model, variables, ex = explained("llama")
  ids, mask = texts()
  at, target = jnp.asarray(ex.at), ex.target

  @jax.jit
  def gradient(variables, embeddings):
    def value(e):
      logits = model.apply(variables, ids, mask=mask, embeddings=e, at=at)
      return jnp.take_along_axis(logits, target[:, None], 1).sum()

    return jax.grad(value)(embeddings)

  assert rel(gradient(variables, ex.inputs), ex.weights) > 0.1


def test_both_factors_of_a_gate_count_twice(explained):
  """The published code differentiates SiLU(gate) and up; the sum then is not the logit."""
  model, variables, ex = explained("llama")
  ids, mask = texts()
  published = model.clone(ops=BcosOps.lm_decoder(hold_gated_factor=False))
  twice = bcos_jax.explain(published, variables, ids, mask=mask)
  assert rel(twice.logits, ex.logits) <= 1e-6
  assert twice.completeness_error.max() > 1e-2 > ex.completeness_error.max()


def test_tokens_behind_the_place_contribute_nothing(explained):
  model, variables, _ = explained("gpt2")
  ids, mask = texts()
  ex = bcos_jax.explain(model, variables, ids, mask=mask, at=[1, 2, 3])
  later = np.arange(LENGTH) > np.array([1, 2, 3])[:, None]
  assert (ex.contributions[later] == 0).all() and (ex.contributions[~later] != 0).all()
  assert ex.completeness_error.max() <= 2e-6
  assert "bias" in ex.residuals  # of the blocks; wte alone would not do either
  alone = ex.counting("word")
  assert np.abs(alone.residuals["position"]).min() > 0


def test_masked_language_models_are_asked_at_a_place():
  model, variables = network("distilbert_tiny", BcosOps.lm(vocabulary_map="bcos"), task="masked_lm")
  ids, mask = texts()
  ex = bcos_jax.explain(model, variables, ids, Contrast(7), mask=mask, at=2)
  assert ex.logits.shape == (3, 60) and ex.at.tolist() == [2, 2, 2] and ex.target is None
  assert rel(ex.value, ex.logits[:, 7] - ex.logits.mean(1)) <= 1e-5
  assert ex.completeness_error.max() <= 2e-6 and (ex.contributions[mask == 0] == 0).all()
  with pytest.raises(InputError, match="at="):
    bcos_jax.explain(model, variables, ids, mask=mask)
  with pytest.raises(InputError, match=r"at is \[5, 5, 5\]"):
    bcos_jax.explain(model, variables, ids, mask=mask, at=5)  # padding of the first text


@pytest.mark.parametrize("b", [1.1, 1.5, 2.0, 2.5])
def test_one_layer_in_closed_form(b):
  """W(x) = |cos(x, w)|^(B-1) w / |w|, and not the gradient, which sees the cosine move."""
  layer = layers.BcosDense(4, b=b, weights="unit", guard=CONV_GUARD)
  rng = np.random.RandomState(0)
  x, kernel = rng.standard_normal(8).astype("f"), rng.standard_normal((8, 4)).astype("f")
  kernel[:, 3] = 0  # published code gives NaN
  variables = {"params": {"kernel": kernel}}
  held = layer.clone(detach=True)
  weights = jax.jit(jax.jacrev(lambda x: held.apply(variables, x)))(x)
  unit = kernel / np.maximum(np.linalg.norm(kernel, axis=0), 1e-30)
  cosine = np.abs(x @ unit) / np.sqrt(np.square(x).sum() + 1e-6)
  scale = cosine if b == 2 else (cosine + 1e-6) ** (b - 1)
  assert rel(weights, (unit * scale).T) <= 1e-5
  assert (np.asarray(weights)[3] == 0).all()
  gradient = np.asarray(jax.jit(jax.jacrev(lambda x: layer.apply(variables, x)))(x))
  assert np.isfinite(gradient).all() and rel(gradient, weights) > 0.05


def refused(match, **changes):
  model, variables = network("bert_tiny", StandardOps())
  ids, mask = texts()
  given = {"ids": ids, "mask": mask, **changes}
  with pytest.raises(InputError, match=match):
    bcos_jax.explain(model, variables, given.pop("ids"), given.pop("target", None), **given)


def test_what_cannot_be_explained():
  ids, mask = texts()
  refused("1 to 60.*0 to 59", ids=np.where(ids == ids.max(), 60, ids))
  refused("13 tokens.*12", ids=np.ones((1, 13), int), mask=None)
  refused("expected integers", ids=ids.astype(float))
  refused(r"mask.*\(3, 4\).*\(3, 9\)", mask=mask[:, :4])
  refused("Text 1.*padding", mask=mask * [[1], [0], [1]])
  refused("types span 0 to 2", types=np.minimum(ids, 2) * mask)
  refused("is a classifier", at=1)
  refused("expected 0 to 2", target=3)
  refused("expected 0 to 2", target=Contrast(0, 3))
  refused("one target and one foil", target=Contrast(np.zeros((3, 2), int)))
  refused("for 3 texts", target=np.zeros(2, int))
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), num_classes=2)
  with pytest.raises(InputError, match=r"mask.*language models"):
    bcos_jax.explain(model, {}, np.zeros((1, 8, 8, 3)), mask=mask)
  model, variables = network("bert_tiny", StandardOps())
  with pytest.raises(InputError, match="params/pooler/kernel"):
    wrong = {"params": {k: v for k, v in variables["params"].items() if k != "pooler"}}
    bcos_jax.explain(model, wrong, ids, mask=mask)


def test_words_are_those_of_the_text():
  text = "Don't re-watch it, funny?"
  spans = word_spans(text)
  assert [text[a:b] for a, b in spans] == ["Don't", "re-watch", "it", ",", "funny", "?"]
  # A token may begin with the space before it, or lie across two words.
  assert words_of_tokens([(0, 3), (5, 8), (15, 18), (17, 20), (0, 0)], spans) == [0, 1, 2, 3, -1]


def test_words_merge_tokens_and_keep_special_ones():
  batch = TextBatch(
    texts=("so funny!",),
    ids=np.array([[2, 7, 8, 9, 10, 3, 0]]),
    mask=np.array([[1, 1, 1, 1, 1, 1, 0]]),
    special=np.array([[True, False, False, False, False, True, True]]),
    spans=np.array([[[0, 0], [0, 2], [3, 6], [6, 8], [8, 9], [0, 0], [0, 0]]]),
    tokens=(("[CLS]", "so", "fun", "##ny", "!", "[SEP]"),),
    dropped=np.array([0]),
  )
  words = merged(batch, 0, np.arange(7.0))
  assert [word.text for word in words] == ["[CLS]", "so", "funny", "!", "[SEP]"]
  assert [word.contribution for word in words] == [0, 1, 5, 4, 5]
  assert words[2].tokens == (2, 3) and words[2].span == (3, 8)
  assert words[0].span is None and words[-1].span is None
