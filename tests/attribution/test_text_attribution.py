"""Attributions of texts: closed forms on linear networks and graphs, padding, and bad input."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps
from bcos_jax.attribution import text as methods
from bcos_jax.attribution.text import Contrast
from bcos_jax.errors import InputError
from bcos_jax.explain.text_reader import TextReader
from bcos_jax.train.data.text import vocabularies

from .. import text_tasks as toys
from ..common import suggestion

IDS, MASK = toys.texts()
SPECIAL = np.isin(IDS, toys.SPECIAL)
TARGETS = np.array([0, 2, 1])
EXACT = (
  "input_x_gradient",
  "attn_lrp",
  "integrated_gradients",
  "sequential_integrated_gradients",
  "occlusion",
  "shapley_sampling",
  "kernel_shap",
)
PREDICTED = np.argmax(methods.logits_of(toys.attending(), IDS, MASK), axis=1)
PREDICTED_LINEAR = np.argmax(methods.logits_of(toys.linear()[0], IDS, MASK), axis=1)
FEW = {
  "lime": {"samples": 60},
  "kernel_shap": {"samples": 40},
  "shapley_sampling": {"samples": 5},
  "integrated_gradients": {"steps": 3},
  "sequential_integrated_gradients": {"steps": 3},
}


def quick(name, task, targets=None, texts=(IDS, MASK), **settings):
  return methods.METHODS[name](task, *texts, targets, **{**FEW.get(name, {}), **settings})


@pytest.mark.parametrize("name", EXACT)
def test_a_linear_network_has_one_right_answer(name):
  task, table = toys.linear()
  expected = np.where(SPECIAL, 0, table[IDS, TARGETS[:, None]])
  found = quick(name, task, TARGETS, batch_size=7 if name == "occlusion" else 64)
  assert found.dtype == np.float32 and found.shape == IDS.shape
  np.testing.assert_allclose(np.where(SPECIAL, 0, found), expected, atol=2e-5)
  if name in ("input_x_gradient", "attn_lrp"):  # special tokens are part of the sum
    sums = np.asarray(task.predict(IDS, MASK))[np.arange(3), TARGETS]
    np.testing.assert_allclose(found.sum(1), sums, atol=1e-5)
  else:
    assert not found[SPECIAL].any()


@pytest.mark.parametrize("name", methods.names())
def test_targets_padding_and_lengths(name):
  task = toys.attending()
  found = quick(name, task, PREDICTED)
  assert found.shape == (3, 16) and not found[~MASK].any() and found[MASK].any()
  np.testing.assert_allclose(quick(name, task), found, atol=1e-6)
  wide = [np.pad(array, ((0, 0), (0, 30))) for array in (IDS, MASK)]
  alone = quick(name, task, PREDICTED, texts=wide)
  np.testing.assert_allclose(alone[:, :16], found, atol=1e-5)
  assert not alone[:, 16:].any()


@pytest.mark.parametrize("name", ["attention_mean", "attention_flow", "saliency", "lime"])
def test_several_targets_are_explained_at_once(name):
  task, _ = toys.linear(**({"attentions": uniform} if "attention" in name else {}))
  both = quick(name, task, np.stack([TARGETS, (TARGETS + 1) % 3], axis=1))
  assert both.shape == (3, 2, 16)
  np.testing.assert_allclose(both[:, 0], quick(name, task, TARGETS), atol=1e-5)


def uniform(ids, mask):
  share = mask / mask.sum(1, keepdims=True)
  return jnp.broadcast_to(share[:, None, None, None], (len(ids), 2, 1, ids.shape[1], ids.shape[1]))


def test_contrast_and_functions_are_targets():
  task, table = toys.linear()
  contrast = quick("input_x_gradient", task, Contrast(TARGETS, (TARGETS + 1) % 3))
  expected = np.where(
    MASK, table[IDS, TARGETS[:, None]] - table[IDS, (TARGETS[:, None] + 1) % 3], 0
  )
  np.testing.assert_allclose(contrast, expected, atol=1e-5)
  mean = quick("input_x_gradient", task, Contrast(None, None))
  expected = np.where(MASK, (table.T - table.mean(1)).T[IDS, PREDICTED_LINEAR[:, None]], 0)
  np.testing.assert_allclose(mean, expected, atol=1e-5)
  function = quick("occlusion", task, lambda logits: logits[:, 0] - logits[:, 2])
  expected = np.where(SPECIAL, 0, table[IDS, 0] - table[IDS, 2])
  np.testing.assert_allclose(function, expected, atol=1e-5)
  assert quick("occlusion", task, lambda logits: logits).shape == (3, 3, 16)


def test_saliency_is_the_gradients_size():
  task, _ = toys.linear()
  weights = np.asarray(task.forward(jnp.eye(toys.WIDTH)[:, None], np.ones((toys.WIDTH, 1), bool)))
  rows = np.abs(weights[:, TARGETS]).mean(0)
  np.testing.assert_allclose(quick("saliency", task, TARGETS), rows[:, None] * MASK, rtol=1e-5)
  rows = np.linalg.norm(weights[:, TARGETS], axis=0)
  found = quick("saliency", task, TARGETS, size="l2")
  np.testing.assert_allclose(found, rows[:, None] * MASK, rtol=1e-5)


def test_integrated_gradients_are_complete():
  task = toys.attending()
  found = quick("integrated_gradients", task, 1, steps=20)
  nothing = np.where(SPECIAL, IDS, toys.MASK)
  change = task.predict(IDS, MASK)[:, 1] - task.predict(nothing, MASK)[:, 1]
  np.testing.assert_allclose(found.sum(1), change, atol=1e-5)
  whole = quick("integrated_gradients", task, 1, steps=30, baseline="zero")
  np.testing.assert_allclose(whole.sum(1), task.predict(IDS, MASK)[:, 1], atol=1e-5)


def test_sequential_gradients_move_one_token_at_a_time():
  task = toys.attending()
  found = quick("sequential_integrated_gradients", task, 1, steps=20)
  dropped = quick("occlusion", task, 1)  # the integral over one token is the change it makes
  np.testing.assert_allclose(found, dropped, atol=1e-5)


def exact_shapley(task, ids, mask, groups, target):
  """Shapley values by all orders of the feature groups."""
  count = groups.max() + 1
  values = {}
  for present in itertools.product((False, True), repeat=count):
    gone = (groups >= 0) & ~np.append(present, True)[groups]
    values[present] = float(
      task.predict(np.where(gone, toys.MASK, ids)[None], mask[None])[0, target]
    )
  found = np.zeros(count)
  orders = list(itertools.permutations(range(count)))
  for order in orders:
    present = [False] * count
    for group in order:
      before = values[tuple(present)]
      present[group] = True
      found[group] += (values[tuple(present)] - before) / len(orders)
  return found


def test_shapley_values_of_all_coalitions():
  task = toys.attending()
  groups = np.where(SPECIAL[0], -1, np.arange(16) - 1)
  exact = exact_shapley(task, IDS[0], MASK[0], groups, 1)
  found = methods.kernel_shap(task, IDS[:1], MASK[:1], 1)[0]
  np.testing.assert_allclose(found[~SPECIAL[0]], exact, atol=1e-5)
  sampled = methods.shapley_sampling(task, IDS[:1], MASK[:1], 1, samples=400)[0]
  np.testing.assert_allclose(sampled[~SPECIAL[0]], exact, atol=0.01)
  change = sampled.sum(), exact.sum()
  np.testing.assert_allclose(*change, atol=1e-5)


@pytest.mark.parametrize("name", ["occlusion", "shapley_sampling", "kernel_shap", "lime"])
def test_words_come_and_go_whole(name):
  task, table = toys.linear()
  words = np.array([[-1, 0, 1, 1, 2, *[-1] * 11]])
  ids, mask = IDS[:1], MASK[:1]
  settings = FEW.get(name, {}) | ({"ridge": 1e-6, "score": "logit"} if name == "lime" else {})
  found = methods.METHODS[name](task, ids, mask, 1, words=words, **settings)[0]
  single = table[ids[0], 1]
  expected = np.where(words[0] >= 0, single, 0)
  expected[2:4] = expected[2:4].mean()
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_lime_finds_the_slopes():
  task, table = toys.linear()
  found = quick("lime", task, TARGETS, ridge=1e-6, score="logit")
  expected = np.where(SPECIAL, 0, table[IDS, TARGETS[:, None]])
  np.testing.assert_allclose(found, expected, atol=5e-4)  # the ridge shrinks them


def fixed_attention(weights, reads="first"):
  """A task that only has attention weights [layers, L, L]."""
  task, _ = toys.linear(reads=reads)
  return dataclasses.replace(
    task,
    attentions=lambda ids, mask: jnp.asarray(weights)[
      None, :, None, : ids.shape[1], : ids.shape[1]
    ],
  )


CHAIN = np.array([[[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]], np.float32)


def test_rollout_goes_from_the_last_layer_down():
  ids = np.array([[toys.CLS, 5, 6]])
  task = fixed_attention(CHAIN)
  found = methods.attention_rollout(task, ids, ids >= 0, 0, residual=0.0)
  np.testing.assert_allclose(found, [[1, 0, 0]])  # 0 looks at 2 above, and 2 at 0 below
  last = dataclasses.replace(task, reads="last")
  found = methods.attention_rollout(last, ids, ids >= 0, 0, residual=0.0)
  np.testing.assert_allclose(found, [[0, 0, 1]])
  np.testing.assert_allclose(methods.attention_mean(task, ids, ids >= 0, 0), [[0, 0.5, 0.5]])
  mean = dataclasses.replace(task, reads="mean")
  np.testing.assert_allclose(methods.attention_mean(mean, ids, ids >= 0, 0), [[1 / 3] * 3])
  for method in (methods.attention_rollout, methods.attention_flow):
    np.testing.assert_allclose(method(task, ids, ids >= 0, 0, residual=1.0), [[1, 0, 0]])


def test_flow_is_bounded_by_the_narrowest_layer():
  lower = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 0.4, 0.6]], np.float32)
  upper = np.array([[0.1, 0.6, 0.3], [1, 0, 0], [0, 1, 0]], np.float32)
  ids = np.array([[toys.CLS, 5, 6]])
  found = methods.attention_flow(
    fixed_attention(np.stack([lower, upper])), ids, ids >= 0, 0, residual=0.0
  )
  # To token 0: min(.1, .5) + min(.6, .2) + min(.3, 0); and so on for the others.
  np.testing.assert_allclose(found, [[0.3, 0.1 + 0.3 + 0.3, 0.5 + 0.3]], atol=1e-5)


# Language models.


def language(name, ops, **fields):
  classes = {"num_classes": 3} if "bert" in name else {}
  model = bcos_jax.create(name, ops=ops, depth=1, **classes)
  ids = np.where(MASK, np.maximum(IDS, 4), 1)
  random = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: (random.standard_normal(leaf.shape) / leaf.shape[0] ** 0.5).astype("f"),
    jax.eval_shape(model.init, jax.random.key(0), ids[:1]),
  )
  special = (4,) if "bert" in name else ()
  task = methods.language_task(model, variables, mask_id=5, special_ids=special, pad_id=1, **fields)
  return model, variables, ids, task


def test_decoders_are_tasks():
  model, variables, ids, task = language("llama_tiny", StandardOps())
  last = MASK.sum(1) - 1

  @jax.jit
  def look(task, variables):
    embedded = task.embed(ids, MASK)
    return (
      model.apply(variables, ids, mask=MASK, at=last),
      (task.predict(ids, MASK), task.forward(embedded, MASK), task.lrp(embedded, MASK)),
      task.attentions(ids, MASK),
      task.read_out(MASK),
    )

  expected, found, weights, read = jax.device_get(look(task, variables))
  for logits in found:
    np.testing.assert_allclose(logits, expected, atol=2e-5)
  assert weights.shape == (3, model.depth, 4, 16, 16)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  assert read.argmax(1).tolist() == last.tolist()
  assert np.abs(np.triu(weights[0, 0, 0], 1)).max() == 0
  rolled = methods.attention_rollout(task, ids, MASK, 0)
  np.testing.assert_allclose(rolled.sum(1), 1, atol=1e-5)


def test_own_explanations_are_cp_lrp():
  model, variables, ids, task = language("roberta_tiny", BcosOps.lm(), rule="cp_lrp")
  own = methods.explain_with(model, variables)(ids, MASK, TARGETS)
  assert own.shape == (3, 16)
  np.testing.assert_allclose(methods.attn_lrp(task, ids, MASK, TARGETS), own, atol=1e-5)
  with pytest.raises(InputError, match=r"TextEncoder.*logits"):
    methods.language_task(model.clone(task="masked_lm"), variables, mask_id=5)


def test_readers_are_tasks(tmp_path):
  model, variables, _, _ = language("llama_tiny", StandardOps())
  for kind, special, mask_id in (("encoder", (0, 2, 3), 4), ("decoder", (0, 2), 1)):
    tokenizer = vocabularies.save_words(tmp_path / kind, ["good", "bad"], kind=kind)
    reader = TextReader(model=model, variables=variables, tokenizer=tokenizer, length=8)
    task = methods.reader_task(reader)
    assert (task.special_ids, task.mask_id, task.reads) == (special, mask_id, "last")
    assert task.vocabulary == model.vocab_size


def test_texts_of_special_tokens_get_zeros():
  task = toys.attending()
  ids = np.array([[toys.CLS, toys.SEP, toys.PAD], [toys.CLS, 7, toys.SEP]])
  for name in ("occlusion", "kernel_shap", "lime", "shapley_sampling"):
    found = methods.METHODS[name](task, ids, ids != toys.PAD, 0)
    assert not found[0].any() and found[1, 1] and not found[1, [0, 2]].any()
  alone = methods.sequential_integrated_gradients(task, ids[:1], ids[:1] != toys.PAD, 0)
  assert not alone.any()


def test_bad_input():
  task, _ = toys.linear()
  small = dataclasses.replace(task, vocabulary=int(IDS.max()))
  refused = [
    (lambda: methods.occlusion(task, IDS[0], MASK[0]), "expected integers [N, L]"),
    (lambda: methods.occlusion(task, IDS, MASK[:2]), "The mask is bool (2, 16)"),
    (lambda: methods.occlusion(task, IDS, MASK * 2), "The mask is int64"),
    (lambda: methods.occlusion(task, -IDS, MASK), "ids go down to"),
    (lambda: methods.occlusion(task, IDS, MASK & False), "Text 0 has no tokens"),
    (lambda: methods.occlusion(task, IDS, MASK, 3), "expected 0 to 2"),
    (lambda: methods.occlusion(task, IDS, MASK, [0]), "for 3 texts"),
    (lambda: methods.occlusion(task, IDS, MASK, Contrast(TARGETS, 3 - TARGETS)), "expected 0 to 2"),
    (lambda: methods.occlusion(task, IDS, MASK, Contrast(0, -1)), "foils go down to -1"),
    (lambda: methods.occlusion(small, IDS, MASK, 0), f"expected at most {IDS.max() - 1}"),
    (lambda: methods.occlusion(task, IDS, MASK, score="odds"), "Unknown score"),
    (lambda: methods.occlusion(task, IDS, MASK, words=IDS[:1]), "The words are"),
    (lambda: methods.attention_mean(task, IDS, MASK), "no 'attentions'"),
    (lambda: methods.attribute_with("occlusoin", task), suggestion("occlusion")),
    (lambda: methods.attribute_with("lime", task, step=1), "Unknown setting of 'lime'"),
    (lambda: methods.integrated_gradients(task, IDS, MASK, baseline="pad"), "Unknown baseline"),
    (lambda: methods.saliency(task, IDS, MASK, size="l1"), "Unknown size"),
    (lambda: toys.linear(reads="cls"), "Unknown reading"),
    (lambda: methods.lime(task, IDS, MASK, ridge=0), "ridge is 0"),
    (lambda: methods.shapley_sampling(task, IDS, MASK, samples=0), "samples is 0"),
  ]
  for call, words in refused:
    with pytest.raises(InputError) as caught:
      call()
    assert words in str(caught.value)
