"""Training of language models: the shared loop on texts, and errors of bad runs."""

import functools
import json

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest

import bcos_jax
from bcos_jax import InputError, TextReader, cli
from bcos_jax.configs import common
from bcos_jax.train import config as configs
from bcos_jax.train import loop, main, objectives, optimizer, sharding, start, state, step
from bcos_jax.train.data.text import masking, reviews, vocabularies
from bcos_jax.train.objectives import losses

from ..common import flat, plain, rel, stop_at

WIDTHS = {"width": 16, "mlp_dim": 32, "depth": 1, "num_heads": 2, "context_length": 64}


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
  """Programs are compiled quickly, and once for all runs of this file."""
  options = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A folder of short judgements as JSON lines: all fit one length, so little is compiled."""
  folder, random = tmp_path_factory.mktemp("reviews"), np.random.default_rng(0)
  for split, count in {"train": 160, "test": 40}.items():
    lines = []
    for i in range(count):
      verbs, parts = random.choice(reviews.VERBS[i % 2], 2), random.choice(reviews.PARTS, 2)
      said = [f"i {verb} the {part} ." for verb, part in zip(verbs, parts, strict=True)]
      begins = (2, len(said[0]) + 3)
      spans = [(at, at + len(verb)) for at, verb in zip(begins, verbs, strict=True)]
      record = {"text": " ".join(said), "label": reviews.LABELS[i % 2], "spans": spans}
      lines.append(json.dumps(record))
    (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
  return folder


RECIPES = {"text": "bcosify_lm:", "causal_lm": "pretrain_lm:causal_lm,"}


def spec(files, *overrides, name="bcosify_lm:"):
  small = [
    f"--config.data.folder={files}",
    "--config.data.train_split=train",
    "--config.data.test_split=test",
    "--config.data.batch_size=16",
    "--config.mesh.data=1",
    "--config.steps=6",
    "--config.eval_every=3",
    "--config.checkpoint_every=2",
    "--config.optimizer.warmup_steps=2",
    *(f"--config.model.{key}={value}" for key, value in WIDTHS.items()),
  ]
  return f"{name}runlocal", [*small, *overrides]


def train(folder, files, *overrides):
  config = configs.load_config(*spec(files, *overrides))
  return loop.train(config, workdir=folder, progress=False)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, files):
  """One command each: masked LM, then B-cosification and the task in one run."""
  folder = tmp_path_factory.mktemp("tuned")
  pretraining = spec(files, name="pretrain_lm:conventional,")
  bundle = main.main(*pretraining, folder / "mlm", progress=False)
  assert bcos_jax.load(bundle).model.task == "masked_lm"
  tuning = spec(
    files,
    f"--config.init={bundle}",
    "--config.data.tokenizer=",
    "--config.steps=60",
    "--config.eval_every=20",
    "--config.checkpoint_every=20",
    "--config.optimizer.lr=0.01",
  )
  return main.main(*tuning, folder / "task", progress=False)


def test_pretrained_converted_fine_tuned_and_explained(tuned):
  reader = TextReader.load(tuned)
  assert (
    reader.labels == reviews.LABELS
    and reader.model.ops.b == 1.5
    and reader.model.ops.weights == "unit"
  )
  measured = json.loads((tuned / "config.json").read_text())["provenance"]["metrics"]
  assert measured["accuracy"] > 0.9
  ex = reader.explain(["i loved the plot .", "the acting was terrible ."])
  np.testing.assert_allclose(ex.contributions.sum(axis=1) + ex.residual, ex.value, atol=1e-5)


def test_what_was_trained_is_evaluated(tuned, files, tmp_path, capsys, monkeypatch):
  """Verbs decide, as the files say, and the network has learned that."""
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  arguments = [str(tuned), f"--dataset={files}", "--num_texts=10", "--num_pairs=4"]
  names = "accuracy,rationales,sequence_pointing,comprehensiveness,sufficiency,completeness"
  page = tmp_path / "report.html"
  assert cli.main(["evaluate", *arguments, f"--metrics={names}", f"--report={page}"]) == 0
  printed = dict(
    line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " on " not in line
  )
  found = {" ".join(name.split()): value for name, value in printed.items()}
  assert float(found["rationale AUPRC mean"]) > float(found["rationale AUPRC random"])
  assert float(found["completeness mean"]) < 1e-5 < float(found["completeness random"])
  assert found["sequence pointing num_pairs"] == "4" and found["sufficiency num_scored"] == "10"
  shown = page.read_text(encoding="utf-8")
  assert "rationale IoU F1" in shown and shown.count("predicted ") >= 20


def test_published_measures_on_what_was_held_out(tuned, files, capsys, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  names = "accuracy,sequence_pointing,comprehensiveness"
  where = [f"--dataset={files / 'test.jsonl'}", "--split=test", "--held_out=0.5", "--length=9"]
  options = ["--published", "--no_oracle", "--num_texts=4", "--num_pairs=2"]
  assert cli.main(["evaluate", str(tuned), *where, *options, f"--metrics={names}"]) == 0
  printed = capsys.readouterr().out
  assert " on 20 texts" in printed
  found = {line.rsplit(maxsplit=1)[0].strip() for line in printed.splitlines()}
  assert "comprehensiveness mean" in found and "comprehensiveness oracle" not in found
  assert "sequence pointing num_short" in found


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--grid=2"], "--grid=2"),
    (["--length=40", "--metrics=sequence_pointing"], "--length=32 or less"),
    (["--metrics=rationale"], "rationales"),
    (["--num_pairs=0"], "--num_pairs=0"),
    (["--split=trian"], "trian"),
    (["--label=text"], "i "),
  ],
)
def test_evaluate_refuses_what_texts_have_not(tuned, files, arguments, said, capsys, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  assert cli.main(["evaluate", str(tuned), f"--dataset={files}", *arguments]) == 2
  error = capsys.readouterr().err
  assert said in error and "Traceback" not in error


@pytest.mark.parametrize("kind", [pytest.param("text", marks=pytest.mark.slow), "causal_lm"])
def test_a_run_resumes_bit_for_bit(tmp_path, files, kind):
  """Dropout, hidden tokens and the order of texts included."""
  short = ("--config.data.max_length=32", "--config.data.truncate=true")
  recipe, overrides = spec(files, *short, name=RECIPES[kind])
  config = configs.load_config(recipe, overrides)
  run = functools.partial(loop.train, config, progress=False)
  whole = run(workdir=tmp_path / "whole")
  with pytest.raises(KeyboardInterrupt):
    run(workdir=tmp_path / "cut", hooks=[stop_at(3)])
  again = run(workdir=tmp_path / "cut")
  jax.tree.map(np.testing.assert_array_equal, plain(whole.state), plain(again.state))
  assert [row["loss"] for row in whole.history] == [row["loss"] for row in again.history]


@functools.cache
def network(task):
  model = bcos_jax.create(
    "bert_tiny", ops=bcos_jax.BcosOps.lm(b=1.5), task=task, num_classes=2, dropout=0.0, **WIDTHS
  ).clone(attention_dropout=0.0, head_dropout=0.0)
  ids = np.zeros((1, 8), np.int32)
  return model, jax.jit(model.init)(state.new_key(0), ids)


def batch_of(task, count=8, length=16):
  random = np.random.default_rng(0)
  ids = random.integers(5, 60, (count, length)).astype(np.int32)
  mask = np.arange(length) < random.integers(6, length + 1, count)[:, None]
  batch = {"ids": np.where(mask, ids, 0), "mask": mask}
  if task == "classify":
    return batch | {"label": random.integers(0, 2, count).astype(np.int32)}
  hide = masking.HideTokens(mask_id=4, special_ids=(0, 1, 2, 3), vocabulary=60, share=0.4)
  return hide(batch, random)


@pytest.mark.parametrize("task", [pytest.param("classify", marks=pytest.mark.slow), "masked_lm"])
def test_sharded_and_accumulated_steps_equal_that_of_one_device(task):
  """Also where parts of the batch have unequal numbers of hidden tokens."""
  model, variables = network(task)
  goal = objectives.TokenPrediction(model)
  if task == "classify":
    goal = objectives.TextLabels(model, losses.bce)
  options = common.get_config().optimizer
  options.update(name="sgd", schedule="constant", lr=0.1, agc=0.0)
  opt = optimizer.build(options, steps=5, steps_per_epoch=5)

  def advance(devices, accumulate=1):
    mesh = sharding.make_mesh({"data": devices // 2 or 1, "fsdp": min(devices, 2)})
    create = functools.partial(state.create, optimizer=opt, rng=state.new_key(0))
    like = sharding.abstract(create, (("", "fsdp"),), mesh, variables)
    one = step.make_train_step(
      goal, opt, sharding.shardings(like), mesh=mesh, accumulate=accumulate
    )
    begun = sharding.init_sharded(create, like, variables)
    after, metrics = one(begun, sharding.put_batch(batch_of(task), mesh), {})
    return jax.device_get((after.params, metrics))

  params, metrics = advance(1)
  for other, again in (advance(8), advance(1, accumulate=2)):
    for path, leaf in flat(params).items():
      assert rel(flat(other)[path], leaf) < 1e-5, path
    assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def test_the_linear_schedule_is_that_of_transformers():
  lr = optimizer.schedule("linear", 2.0, steps=10, warmup=4)
  factors = [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
  np.testing.assert_allclose([lr(i) for i in range(11)], 2 * np.array(factors), rtol=1e-6)


@pytest.mark.parametrize(
  "overrides, message",
  [
    (("model.num_classes=3",), "3 classes.* 2"),
    (("model.vocab_size=5",), "ids.* 5"),
    (("data.text=review",), "has no 'review'"),
    (("data.label=stars",), "has no 'stars'"),
    (("data.max_length=8", "data.truncate=false"), "tokens.* 8"),
    (("data.max_length=80",), "expected 2 to 64"),
    (("data.tokenizer=",), "names no tokenizer"),
    (("data.train_split=nothing",), "folder with nothing.csv"),
    (("data.augment.mixup=0.2",), "objective.name=supervised"),
    (("model.name=resnet_tiny",), "field of 'resnet_tiny'"),
    (("watch.explain_every=2",), "objective.name=supervised"),
    (("objective.name=causal_lm", "model.name=bert_tiny"), "does not fit a TextEncoder"),
  ],
  ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_trained_is_refused(tmp_path, files, overrides, message):
  with pytest.raises(InputError, match=message) as error:
    train(tmp_path, files, *(f"--config.{text}" for text in overrides))
  assert error.value.fix


def test_a_bundle_is_taken_only_as_far_as_it_fits(tmp_path, files):
  """Another vocabulary, width, B or architecture is refused; a head is drawn anew."""
  model, variables = network("classify")
  folder = bcos_jax.save(tmp_path / "bundle", model, variables)
  words = tmp_path / "words"
  vocabularies.save_words(words, reviews.vocabulary())

  def given(*overrides):
    init = (f"--config.init={folder}", f"--config.data.tokenizer={words}")
    return configs.load_config(*spec(files, *init, *(f"--config.{text}" for text in overrides)))

  for overrides, message in (
    (("model.vocab_size=70",), "has 60 tokens"),
    (("model.width=32",), r"word has shape \(60, 16\), expected \(60, 32\)"),
    (("ops.b=2.0",), "has the ops"),
    (("model.name=distilbert_tiny",), "their head_activation differ"),
  ):
    with pytest.raises(InputError, match=message):
      start.network(given(*overrides))
  with pytest.raises(InputError, match=r"ids.*60"):
    loop.train(given(), workdir=tmp_path / "run", progress=False)
  wider, drawn = start.network(given("model.num_classes=5"))
  assert drawn["params"]["classifier"]["kernel"].shape == (16, 5)
  np.testing.assert_array_equal(
    drawn["params"]["embeddings"]["word"], variables["params"]["embeddings"]["word"]
  )
  assert wider.num_classes == 5
