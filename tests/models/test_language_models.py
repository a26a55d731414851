"""Language models: B-cosified, saved with their tokenizers, read from files, and refused."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Contrast, StandardOps, TextReader, cli, convert
from bcos_jax.convert.architectures.text_decoder import READERS as DECODERS
from bcos_jax.convert.architectures.text_encoder import READERS as ENCODERS
from bcos_jax.errors import InputError
from bcos_jax.io import bundles
from bcos_jax.ops import from_dict, to_dict
from bcos_jax.variables import num_parameters

from .. import tokenizers
from ..common import applied_to_texts, filled, flat, rel, shapes, suggestion, unflat

FAMILIES = (
  *("bert_tiny", "distilbert_tiny", "roberta_tiny", "gpt2_tiny", "gpt2_tiny_classifier"),
  "llama_tiny",
)
SMALL = {"depth": 1, "context_length": 24}


def network(name, ops=None, **fields):
  model = bcos_jax.create(name, ops=ops or StandardOps(), **{**SMALL, **fields})
  return model, filled(model)


def texts(pad=1):
  ids = np.random.RandomState(0).randint(3, 60, (2, 9)).astype(np.int32)
  mask = np.ones_like(ids)
  ids[1, 6:], mask[1, 6:] = pad, 0
  return ids, mask


def test_variants_have_published_sizes():
  sizes = {"distilbert_base": 66.955, "llama_3_2_1b": 1235.814}
  for name, millions in sizes.items():
    model = bcos_jax.create(name, ops=StandardOps())
    assert round(num_parameters(model) / 1e6, 3) == millions, name


@pytest.mark.parametrize("name", FAMILIES)
def test_function_preserving_bcosification_computes_the_same(name):
  model, variables = network(name)
  ids, mask = texts()
  expected = applied_to_texts(model)(variables, ids, mask)
  for ops in (BcosOps.lm_plain(), BcosOps.equivalent())[: 2 if name == "bert_tiny" else 1]:
    twin, leaves = bcos_jax.bcosify(model, variables, ops=ops)
    assert rel(applied_to_texts(twin)(leaves, ids, mask), expected) <= 1e-6
    assert flat(leaves).keys() == flat(variables).keys()


def test_a_causal_classifier_reads_the_last_token_of_each_text():
  model, variables = network("gpt2_tiny_classifier")
  ids, mask = texts()
  run = applied_to_texts(model)
  logits = run(variables, ids, mask)
  alone = run(variables, ids[1:, :6], mask[1:, :6])
  left = np.roll(ids[1:], 3, axis=1), np.roll(mask[1:], 3, axis=1)
  assert logits.shape == (2, 3) and rel(logits[1:], alone) <= 1e-5
  assert rel(run(variables, *left), alone) <= 1e-5
  for padded, text_mask in ((ids, mask), left):
    explanation = bcos_jax.explain(model, variables, padded, mask=text_mask)
    assert explanation.completeness_error.max() <= 1e-5
    assert (explanation.contributions[text_mask == 0] == 0).all()


@pytest.mark.parametrize(
  "name, fields", [*((name, {}) for name in FAMILIES), ("bert_tiny", {"task": "masked_lm"})]
)
def test_published_bcosification_drops_biases_only(name, fields):
  model, variables = network(name, **fields)
  twin, leaves = bcos_jax.bcosify(model, variables, ops=BcosOps.lm(b=1.5))
  gone = flat(variables).keys() - flat(leaves).keys()
  # The map to the vocabulary is plain, as it was, unless asked for.
  kept = {"params/vocabulary/bias"}
  assert gone == {path for path in flat(variables) if path.endswith("/bias")} - kept
  assert all(flat(leaves)[path] is flat(variables)[path] for path in flat(leaves))
  assert twin.ops.layer_norm(name="n").centered and twin.ops.weights == "unit"


def test_what_the_published_variant_does_to_maps():
  ops = BcosOps.lm(b=1.5)
  assert ops.linear(4, name="q").b == 1 and ops.linear(4, name="q").weights == "plain"
  assert ops.dense(4, name="d").b == 1.5 and ops.dense(4, name="d").weights == "unit"
  assert ops.vocabulary(4, use_bias=True, name="v").b == 1
  vocabulary = BcosOps.lm(vocabulary_map="bcos").vocabulary(4, use_bias=True, name="v")
  assert vocabulary.weights == "unit"
  x = jnp.array([-1.0, 2.0])
  assert (ops.head_act(x, "relu") == x).all() and (ops.act(x, "relu") != x).any()
  assert BcosOps.lm().b == 2.0 and BcosOps.lm_decoder().b == 1.1 and BcosOps.lm_plain().b == 1.0
  for preset in ("bcos_lm", "bcos_lm_decoder", "bcos_lm_plain"):
    made = from_dict({"family": preset})
    assert from_dict(json.loads(json.dumps(to_dict(made)))) == made


def test_each_block_may_have_its_own_b():
  ops = BcosOps.lm(b=2.0, b_per_layer=[1.0, 1.5])
  assert from_dict(json.loads(json.dumps(to_dict(ops)))) == ops and hash(ops)
  assert [ops.at_layer(i, 2).b for i in range(2)] == [1.0, 1.5] and ops.dense(1, name="h").b == 2
  model, variables = network("distilbert_tiny", ops, depth=2)
  ids, mask = texts()
  logits = applied_to_texts(model)(variables, ids, mask)
  plain = applied_to_texts(model.clone(ops=BcosOps.lm(b=2.0)))(variables, ids, mask)
  assert np.isfinite(logits).all() and rel(logits, plain) > 0.01
  with pytest.raises(InputError, match=r"2.*3 blocks"):
    shapes(model.clone(depth=3))
  with pytest.raises(InputError, match=r"B is 0\.5"):
    BcosOps.lm(b_per_layer=(0.5,))


def test_zero_rows_give_zero_not_nan():
  ops = BcosOps.lm(b=1.5, vocabulary_map="bcos")
  model, variables = network("bert_tiny", ops, task="masked_lm")
  leaves = flat(variables)
  leaves["params/embeddings/word"][0] = 0  # [PAD] at random initialisation
  leaves["params/encoder_0/mlp/linear1/kernel"][:, 3] = 0
  ids, mask = texts(0)

  @jax.jit
  def both(variables):
    def loss(variables):
      logits = model.apply(variables, ids, mask=mask)
      return jnp.square(logits).mean(), logits

    return jax.grad(loss, has_aux=True)(variables)

  gradient, logits = both(unflat(leaves))
  assert (np.asarray(logits)[..., 0] == 0).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  assert np.isfinite(logits).all() and np.ptp(logits) > 0


def test_padding_and_its_side_change_nothing():
  model, variables = network("llama_tiny")
  ids, mask = texts(59)
  apply = applied_to_texts(model)
  right = apply(variables, ids, mask)
  other = np.where(mask > 0, ids, 7)
  assert np.array_equal(apply(variables, other, mask)[mask > 0], right[mask > 0])
  left = apply(variables, np.roll(ids, 3, axis=1), np.roll(mask, 3, axis=1))
  assert rel(left[1, 3:], right[1, :6]) <= 1e-5 and np.isfinite(left).all()


def test_training_drops_channels_and_evaluation_none():
  model, variables = network("roberta_tiny", BcosOps.lm(recompute=True))
  ids, mask = texts()

  @functools.partial(jax.jit, static_argnums=0)
  def trained(model, key):
    return model.apply(variables, ids, True, mask=mask, rngs={"dropout": key})

  dropped = functools.partial(trained, model)
  first, again, other = (dropped(jax.random.key(seed)) for seed in (0, 0, 1))
  assert np.array_equal(first, again) and rel(first, other) > 1e-3
  calm = applied_to_texts(model)(variables, ids, mask)
  assert np.array_equal(calm, applied_to_texts(model)(variables, ids, mask))
  none = model.clone(dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
  assert rel(trained(none, jax.random.key(0)), calm) <= 1e-5
  with pytest.raises(InputError, match=r"dropout.*1"):
    model.clone(dropout=1.0).apply(variables, ids, True)


def test_embeddings_take_the_place_of_tokens():
  model, variables = network("bert_tiny")
  ids, mask = texts()
  types = (np.arange(9) > 4).astype(np.int32)[None].repeat(2, 0)

  @jax.jit
  def both(variables):
    e = model.apply(variables, ids, types=types, method="embed")
    return (
      model.apply(variables, ids, mask=mask, types=types),
      model.apply(variables, ids, mask=mask, embeddings=e),
    )

  expected, given = both(variables)
  assert np.array_equal(given, expected)
  assert rel(applied_to_texts(model)(variables, ids, mask), expected) > 1e-3


def test_what_networks_refuse():
  model, variables = network("bert_tiny")
  ids, mask = texts()
  cases = {
    "up to 24": (np.zeros((1, 25), int), {}),
    "expected token ids": (np.zeros((1, 5)), {}),
    "span 3 to 60": (np.array([[3, 60]]), {}),
    "mask has shape": (ids, {"mask": mask[:, 1:]}),
  }
  for match, (tokens, options) in cases.items():
    with pytest.raises(InputError, match=match):
      model.apply(variables, tokens, **options)
  for fields in ({"task": "clasify"}, {"head_activation": "tanhh"}, {"positions": "count"}):
    with pytest.raises(InputError, match="Did you mean"):
      shapes(model.clone(**fields))
  with pytest.raises(InputError, match=r"4 heads.*3 heads"):
    shapes(bcos_jax.create("llama_tiny", ops=StandardOps(), kv_heads=3))
  with pytest.raises(InputError, match="token types"):
    network("gpt2_tiny")[0].apply(network("gpt2_tiny")[1], ids, types=ids)
  towers = bcos_jax.create("clip_text_test", ops=StandardOps())
  with pytest.raises(InputError, match=r"TextTransformer.*token ids"):
    bcos_jax.bcosify(towers, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A bundle with tokenizer and labels."""
  root = tmp_path_factory.mktemp("lm")
  files = tokenizers.wordpieces(root / "tokenizer")
  model, variables = network("bert_tiny", BcosOps.lm(b=1.5))
  bundles.save(
    root / "bundle",
    model,
    variables,
    labels=("bad", "fine", "good"),
    tokenizer={path.name: path.read_bytes() for path in files.iterdir()},
  )
  return root


def test_a_bundle_reads_and_explains_texts(folder):
  reader = TextReader.load(folder / "bundle")
  assert bundles.is_bundle(folder / "bundle") and reader.labels == ("bad", "fine", "good")
  given = ["The film was not funny, was it?", "good"]
  ex = reader.explain(given, "good")
  assert (ex.target == 2).all() and ex.completeness_error.max() <= 2e-6
  words = ex.words(0)
  shown = ["[CLS]", "The", "film", "was", "not", "funny", ",", "was", "it", "?", "[SEP]"]
  assert [word.text for word in words] == shown
  assert len(words[5].tokens) == 2 and given[0][slice(*words[5].span)] == "funny"
  total = sum(word.contribution for word in words)
  assert abs(total - ex.contributions[0].sum()) <= 1e-5 and ex.contributions[1, 3:].max() == 0
  assert reader.name_of(2) == "good" and reader.class_of("1") == 1
  by_name, by_class = (reader.explain(given, Contrast(*pair)) for pair in (("good", "bad"), (2, 0)))
  assert np.array_equal(by_name.contributions, by_class.contributions)
  np.testing.assert_allclose(by_name.value, ex.logits[:, 2] - ex.logits[:, 0], rtol=1e-5)


def test_what_readers_refuse(folder, tmp_path):
  reader = TextReader.load(folder / "bundle", length=6)
  long = "the film was not very funny"
  for match, given in {
    "'good'.*list": "good",
    "Text 1 .* is empty": ["good", "  "],
    "special tokens": ["good", "[SEP] [PAD]"],
    "9 tokens.*6": ["good", long],
  }.items():
    with pytest.raises(InputError, match=match):
      reader.read(given)
  cut = TextReader.load(folder / "bundle", length=6, truncate=True).read(["good", long])
  assert cut.dropped.tolist() == [0, 3] and cut.ids.shape == (2, 6)
  assert cut.tokens[1] == ("[CLS]", "the", "film", "was", "not", "[SEP]")
  with pytest.raises(InputError, match=suggestion("good")):
    reader.explain(["good"], "goood")
  with pytest.raises(InputError, match="length is 25, expected 1 to 24"):
    TextReader.load(folder / "bundle", length=25)
  other = tokenizers.wordpieces(tmp_path / "other", size=70)
  with pytest.raises(InputError, match=r"70.*60"):
    TextReader.load(folder / "bundle", other)
  bare = bundles.make_bundle(*network("bert_tiny"))
  with pytest.raises(InputError, match="no tokenizer"):
    TextReader.load(bare)
  image = bcos_jax.create("resnet_tiny", ops=StandardOps())
  with pytest.raises(InputError, match=r"ResNet.*language model"):
    TextReader.load(bundles.make_bundle(image, filled(image)))
  with pytest.raises(InputError, match=r"2 labels.*3 classes"):
    bundles.make_bundle(*network("bert_tiny"), labels=("a", "b"))


BERT = {
  "model_type": "bert",
  "architectures": ["BertForMaskedLM"],
  "vocab_size": 60,
  "hidden_size": 32,
  "num_hidden_layers": 1,
  "num_attention_heads": 4,
  "intermediate_size": 64,
  "max_position_embeddings": 24,
}


def repository(path, config, model, variables, tokenizer=None):
  """Writes what transformers writes, of a network of ours."""
  path.mkdir()
  bundle = bundles.make_bundle(model, variables)
  state = convert.to_state_dict(bundle, "huggingface")
  bundles.write_safetensors(path / "model.safetensors", state, {"format": "pt"})
  (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
  if tokenizer is not None:
    for file in tokenizer.iterdir():
      (path / file.name).write_bytes(file.read_bytes())
  return path


def test_a_repository_becomes_a_classifier_with_tokenizer(folder, tmp_path):
  model, variables = network("bert_tiny", task="masked_lm", num_classes=0)
  source = repository(tmp_path / "hub", BERT, model, variables, folder / "tokenizer")
  bundle = convert.from_pretrained(source)
  assert bundle.model == model.clone(norm_eps=1e-12)
  assert bundle.tokenizer.keys() >= {"tokenizer.json", "tokenizer_config.json"}
  classifier = convert.from_pretrained(source, num_classes=5)
  assert classifier.model.num_classes == 5 and classifier.model.task == "classify"
  made, given = flat(classifier.variables), flat(variables)
  assert all(np.array_equal(made[p], given[p]) for p in made.keys() & given.keys())
  assert {p.split("/")[1] for p in made.keys() - given.keys()} == {"pooler", "classifier"}
  assert np.ptp(made["params/classifier/kernel"]) > 0
  assert bcos_jax.bcosify(classifier.model, classifier.variables, ops=BcosOps.lm())
  masked = TextReader.load(bundle)
  ex = masked.explain(["the film was [MASK] good"])
  assert ex.at.tolist() == [4] and isinstance(masked.name_of(ex.target[0]), str)
  with pytest.raises(InputError, match="0 mask tokens"):
    masked.explain(["the film was good"])


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ({"is_decoder": True}, "is_decoder is True, supported is False"),
    ({"sparse_attention": 4}, "sparse_attention is 4, which is not understood"),
    ({"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
    ({"hidden_act": "mish"}, "Unknown hidden_act 'mish'"),
    ({"num_hidden_layers": 2}, "encoder_1/attn"),
    ({"vocab_size": 61}, r"expected \[61, 32\]"),
  ],
)
def test_configurations_are_read_strictly(changes, match, tmp_path):
  model, variables = network("bert_tiny", task="masked_lm")
  source = repository(tmp_path / "hub", {**BERT, **changes}, model, variables)
  with pytest.raises(InputError, match=match):
    convert.from_pretrained(source)


def test_rotary_positions_and_dropout_are_read_strictly():
  llama = {"rope_type": "yarn", "rope_theta": 1e4}
  given = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
  with pytest.raises(InputError, match="rope_type is 'yarn', supported is"):
    DECODERS["llama"].read({**given, "rope_parameters": llama}, given)
  with pytest.raises(InputError, match="embd_pdrop is 0"):
    DECODERS["gpt2"].read({"embd_pdrop": 0.0, "resid_pdrop": 0.1}, {})
  read = ENCODERS["roberta"].read({"max_position_embeddings": 514, "pad_token_id": 1}, {})
  assert read == {"context_length": 512, "pad_token": 1}


def test_sources_of_bcos_language_models():
  model, variables = network("distilbert_tiny", BcosOps.lm(b=1.5))
  bundle = bundles.make_bundle(model, variables, provenance={"source": "bcos_lm"})
  state = convert.to_state_dict(bundle)
  assert "distilbert.transformer.layer.0.ffn.lin1.linear.weight" in state
  assert "distilbert.transformer.layer.0.attention.q_lin.weight" in state
  with pytest.raises(InputError, match="huggingface"):
    convert.to_state_dict(bundle, "huggingface")
  state.pop("classifier.linear.weight")
  with pytest.raises(InputError, match=r"classifier\.linear\.weight"):
    convert.from_state_dict(state, "distilbert_tiny", "bcos_lm", fields={"num_classes": 3, **SMALL})


def test_the_command_explains_texts(folder, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  file = tmp_path / "texts.txt"
  file.write_text("The film was not funny.\n\ngood <b> & bad, but good\n", encoding="utf-8")
  out = tmp_path / "out"
  given = ["explain", folder / "bundle", "--text-file", file, "--target=good", "--output", out]
  assert cli.main(list(map(str, given))) == 0
  assert "'good' has the value" in capsys.readouterr().out
  page = (out / "report.html").read_text(encoding="utf-8")
  assert "&lt;" in page and "<b>" not in page and "Most influential words for and against" in page
  assert "http" not in page
  rows = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
  for row in rows:
    total = sum(row["contributions"]) + sum(row["residuals"].values())
    assert abs(total - row["value"]) <= 1e-5 and row["target_name"] == "good"
    assert abs(sum(word[2] for word in row["words"]) - sum(row["contributions"])) <= 1e-5
  compared = [*given[:-1], out / "more", "--foil=fine"]
  assert cli.main(list(map(str, compared))) == 0
  assert "'good' rather than 'fine' has the value" in capsys.readouterr().out
  row = json.loads((out / "more" / "explanations.jsonl").read_text().splitlines()[0])
  assert (row["target_name"], row["foil"]) == ("good", "fine")
  for wrong in (["--text", "  "], ["--text=a", "--text_file=b"], ["--text=good", "--target=oh"]):
    assert cli.main(["explain", str(folder / "bundle"), *wrong, "--output", str(out)]) == 2
  errors = capsys.readouterr().err
  assert "is empty" in errors and "Neither or both" in errors and "Unknown class 'oh'" in errors
  assert cli.main(["explain", str(folder / "nope"), "--text=good", "--output", str(out)]) == 2
  assert "nope" in capsys.readouterr().err


def test_decoders_explain_the_next_token_of_texts(tmp_path):
  files = tokenizers.letters(tmp_path / "tokenizer")
  model, variables = network("gpt2_tiny", BcosOps.lm_decoder(), vocab_size=261)
  reader = TextReader.load(bundles.make_bundle(model, variables), files)
  ex = reader.explain(["it is", "né are"], Contrast(" is", "are"))
  assert ex.mask.sum(1).tolist() == [3, 5] and ex.at.tolist() == [2, 4]
  assert [word.text for word in ex.words(0)] == ["it", "is"]
  assert [word.tokens for word in ex.words(1)] == [(0, 1, 2), (3, 4)]  # with its space
  assert ex.completeness_error.max() <= 2e-6
  assert reader.name_of(reader.class_of(" is")) == " is"
  with pytest.raises(InputError, match=r"' it' has 3 tokens, expected one"):
    reader.explain(["it is"], " it")
  with pytest.raises(InputError, match="special tokens"):
    reader.read(["<|endoftext|>"])
