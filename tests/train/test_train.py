"""Training: one step on any mesh, resumed runs, and errors of bad runs."""

import functools
import json
import os
import signal

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps, cli
from bcos_jax.configs import common
from bcos_jax.inputs import Encoding
from bcos_jax.train import (
  average,
  checkpoint,
  loop,
  objectives,
  optimizer,
  plan,
  sharding,
  start,
  state,
  step,
)
from bcos_jax.train import config as configs
from bcos_jax.train.data import Examples, open_dataset, sources
from bcos_jax.train.estimates import pod
from bcos_jax.train.evaluation import evaluate
from bcos_jax.train.monitor import writer as logs
from bcos_jax.train.objectives import losses

from ..common import plain, stop_at, suggestion

MODEL = {"name": "resnet_tiny", "stages": (1,), "width": 4, "num_classes": 10, "image_size": 8}


@pytest.fixture(scope="module", autouse=True)
def shared(tmp_path_factory):
  """One folder of data and one of compiled programs for all runs of this file."""
  data, programs = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("programs")
  options = {
    "jax_compilation_cache_dir": str(programs),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv(sources.DATA_DIR_VARIABLE, str(data))
    yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def recipe(*overrides, spec="digits:scratch"):
  small = [
    *(f"--config.model.{key}={value}" for key, value in MODEL.items()),
    "--config.data.image_size=8",
    "--config.data.batch_size=16",
    "--config.mesh.data=1",
    "--config.data.test_split=test[:40]",
    "--config.steps=6",
    "--config.eval_every=3",
    "--config.checkpoint_every=2",
    "--config.log_every=2",
    "--config.optimizer.warmup_steps=2",
    "--config.init=",
  ]
  return configs.load_config(spec, [*small, *overrides])


def train(folder, *overrides, spec="digits:scratch", **fields):
  return loop.train(recipe(*overrides, spec=spec), workdir=folder, progress=False, **fields)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


# ---------------------------------------------------------------------- one step
def batch_of(count, size=8, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.random((count, size, size, 3), np.float32),
    "label": rng.integers(0, 10, count).astype(np.int32),
  }


@functools.cache
def network(ops):
  """A model and its variables; drawn here, since compiling an initialisation takes seconds."""
  model = bcos_jax.create(**MODEL, ops=ops)
  images = jax.ShapeDtypeStruct((1, 8, 8, ops.encoding.channels), jnp.float32)
  rng = np.random.default_rng(0)
  return model, jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.float32(
      rng.normal(0, 0.3, leaf.shape) if "kernel" in str(path) else rng.uniform(0.5, 1.5, leaf.shape)
    ),
    jax.eval_shape(model.init, jax.random.key(0), images),
  )


def mesh_of(data, fsdp=1):
  return sharding.make_mesh({"data": data, "fsdp": fsdp})


def steps_on(mesh, ops, layout=(), steps=1, accumulate=1, **fields):
  """Runs steps from a fixed start; returns the first and last state and the last metrics."""
  model, variables = network(ops)
  config = common.get_config().optimizer
  config.update(**{"name": "sgd", "schedule": "constant", "lr": 0.1} | fields)
  opt = optimizer.build(config, steps=10, steps_per_epoch=10)
  create = functools.partial(state.create, optimizer=opt, rng=state.new_key(1))
  like = sharding.abstract(create, layout, mesh, variables)
  state_ = sharding.init_sharded(create, like, variables)
  first = plain(state_)
  advance = step.make_train_step(
    objectives.Supervised(model, losses.uniform_off_label_bce),
    opt,
    sharding.shardings(like),
    mesh=mesh,
    accumulate=accumulate,
  )
  for i in range(steps):
    state_, values = advance(state_, sharding.put_batch(batch_of(16, seed=i), mesh), {})
    jax.block_until_ready(state_)
  assert advance._cache_size() == 1
  return first, state_, jax.device_get(values)


@pytest.mark.parametrize(
  "name, axes, layout, kinds",
  [
    pytest.param(
      *("resnet_tiny", {"data": 8, "fsdp": 1}, (), {"all-reduce"}), marks=pytest.mark.slow
    ),
    ("simple_vit_tiny", {"data": 1, "fsdp": 8}, (("", "fsdp"),), {"all-reduce", "all-gather"}),
  ],
  ids=["data", "fsdp"],
)
def test_devices_send_gradients_parameters_and_statistics_only(name, axes, layout, kinds):
  """Whose sizes the batch does not change; activations would be twice as many bytes."""

  def sent(batch_size):
    config = configs.load_config("bcosify_vit:runlocal")
    config.update(init="", mesh=axes, layout=layout)
    config.model = {"name": name, "num_classes": 8, "image_size": 16}
    config.data.update(image_size=16, batch_size=batch_size)
    mesh = sharding.make_mesh(config.mesh)
    model, _ = start.network(config)
    objective, frozen = objectives.from_config(config, model, mesh)
    made = plan.make(config, objective, None, frozen, mesh, 10)
    batch = pod.abstract_batch(config, model, mesh)
    return pod.collectives(made.train_step.lower(made.layout, batch, {}).compile().as_text())

  small, large = sent(16), sent(32)
  assert small == large
  assert small.keys() == kinds


FSDP = (("conv.*kernel$", (None, None, None, "fsdp")),)


@pytest.mark.user_compiler
@pytest.mark.parametrize(
  "ops, mesh, layout",
  [(StandardOps(), (8, 1), ()), (BcosOps(), (4, 2), FSDP)],
  ids=["standard", "bcos-fsdp"],
)
def test_a_sharded_step_equals_the_single_device_step(ops, mesh, layout):
  _, single, values = steps_on(mesh_of(1), ops, steps=2)
  _, sharded, sharded_values = steps_on(mesh_of(*mesh), ops, layout, steps=2)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    plain(single),
    plain(sharded),
  )
  assert values["loss"] == pytest.approx(sharded_values["loss"], rel=1e-6)
  assert sharded.step.sharding.is_fully_replicated
  for tree in (sharded.params, sharded.opt_state):  # The momentum lies where its parameter does.
    kernels = [
      x
      for path, x in jax.tree_util.tree_leaves_with_path(tree)
      if "conv1" in jax.tree_util.keystr(path)
    ]
    assert {shard.data.shape[-1] for x in kernels for shard in x.addressable_shards} == {
      4 // mesh[1]
    }


def test_a_batch_in_parts_gives_the_same_gradients():
  """On one device and on four."""
  ops = BcosOps(norm="none")  # Batch statistics would differ: they are those of a part.
  _, whole, values = steps_on(mesh_of(1), ops)
  for mesh in (mesh_of(1), mesh_of(4)):
    _, parts, part_values = steps_on(mesh, ops, accumulate=2)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      plain(whole).params,
      plain(parts).params,
    )
    assert part_values["loss"] == pytest.approx(values["loss"], rel=1e-6)


def test_a_batch_in_parts_updates_statistics_part_by_part():
  _, whole, _ = steps_on(mesh_of(1), BcosOps())
  _, parts, _ = steps_on(mesh_of(1), BcosOps(), accumulate=4)
  model, variables = network(BcosOps())
  images, stats = batch_of(16)["image"], variables["batch_stats"]
  for number in range(4):
    _, updated = model.apply(
      {"params": variables["params"], "batch_stats": stats},
      model.ops.encoding(images[number::4]),
      train=True,
      mutable=["batch_stats"],
    )
    stats = updated["batch_stats"]
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    jax.device_get(parts.batch_stats),
    jax.device_get(stats),
  )
  with pytest.raises(AssertionError):
    assert_equal(whole.batch_stats, parts.batch_stats)


def test_the_average_of_a_network():
  """Against a loop of the published rule: copies until the warm-up is over, then blends."""
  rule = average.Average(rate=0.3, every=2, warmup=3)
  model, variables = network(BcosOps())
  opt = optimizer.build(common.get_config().optimizer, steps=10, steps_per_epoch=10)
  now = state.create(variables, opt, state.new_key(1), rule)
  assert_equal(now.average, variables)
  advance = step.make_train_step(objectives.Supervised(model, losses.bce), opt, None, average=rule)
  expected, updates = jax.device_get(variables), 0
  for number in range(8):
    before = jax.device_get(now.variables)
    if number % 2 == 0:
      rate = 0.3 if updates else 1.0
      expected = jax.tree.map(lambda old, new, r=rate: old + r * (new - old), expected, before)
      updates = 0 if number < 3 else updates + 1
    now, _ = advance(now, batch_of(8, seed=number), {})
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
      jax.device_get(now.average),
      expected,
    )


@pytest.mark.parametrize(
  "decay, every, batch_size, epochs, rate",
  # facts, section 6: 1 - decay, times GPUs * accumulation * batch * steps / epochs, at most 1.
  [(0.99998, 32, 1024, 600, 2e-5 * 1024 * 32 / 600), (0.9, 32, 1024, 90, 1.0)],
)
def test_the_rate_of_the_published_average(decay, every, batch_size, epochs, rate):
  options = configs.load_config("digits").ema.copy_and_resolve_references()
  options.update(decay=decay, every=every)
  made = average.from_config(options, batch_size=batch_size, epochs=epochs, warmup=7)
  assert made.rate == pytest.approx(rate) and made.every == every and made.warmup == 7
  options.decay = 0.0
  assert average.from_config(options, batch_size=1, epochs=1, warmup=0) is None
  options.decay = float("nan")
  with pytest.raises(InputError, match=r"ema\.decay=nan"):
    average.from_config(options, batch_size=1, epochs=1, warmup=0)


@pytest.mark.slow
def test_a_run_with_an_average_saves_it(tmp_path):
  extra = ("--config.ema.decay=0.999", "--config.ema.every=2")
  result = train(tmp_path / "run", *extra)
  assert "ema_accuracy" in result.metrics and "accuracy" in result.metrics
  assert_equal(result.variables, result.state.average)
  with pytest.raises(AssertionError):
    assert_equal(result.variables, result.state.variables)
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path / "stopped", *extra, hooks=[stop_at(4)])
  again = train(tmp_path / "stopped", *extra)
  assert_equal(again.variables, result.variables)


def test_a_layout_that_does_not_fit_names_the_array():
  with pytest.raises(InputError, match="head/kernel of shape"):
    sharding.abstract(lambda: network(BcosOps())[1], (("kernel$", FSDP[0][1]),), mesh_of(4, 2))


@pytest.mark.parametrize("ops", [StandardOps(), BcosOps()], ids=["standard", "bcos"])
def test_a_step_updates_everything_and_counts(ops):
  first, after, values = steps_on(mesh_of(1), ops, steps=2)
  assert int(after.step) == 2 and values["learning_rate"] == np.float32(0.1)
  assert jax.tree.leaves(first.batch_stats)
  for kind in ("params", "batch_stats"):
    for old, new in zip(*(jax.tree.leaves(getattr(s, kind)) for s in (first, after)), strict=True):
      assert not np.array_equal(old, new)


def test_running_statistics_are_those_of_the_global_batch():
  _, after, _ = steps_on(mesh_of(4, 2), BcosOps(), FSDP)
  model, variables = network(BcosOps())
  images = model.ops.encoding(batch_of(16)["image"])
  apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
  _, updates = apply(variables, images)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    jax.device_get(after.batch_stats),
    jax.device_get(updates["batch_stats"]),
  )


def test_a_scheduled_b_reaches_the_network():
  fields = {"b_schedule": {"start": 1.0, "end": 2.0, "steps": 2}}
  first, after, values = steps_on(mesh_of(1), BcosOps(learn_b=True), steps=2, **fields)
  assert float(first.params["conv1"]["b"]) == 1.0
  assert float(after.params["conv1"]["b"]) == 2.0 and values["b"] == 1.5


def test_networks_without_statistics_train():
  model = bcos_jax.create("simple_vit_tiny", ops=BcosOps())
  side = model.image_size
  opt = optimizer.build(common.get_config().optimizer, steps=5, steps_per_epoch=5)

  def advance():
    variables = model.init(state.new_key(0), model.ops.encoding(jnp.zeros((1, side, side, 3))))
    assert "batch_stats" not in variables
    first = state.create(variables, opt, state.new_key(1))
    one = step.make_train_step(objectives.Supervised(model, losses.bce), opt, None)
    return one(first, batch_of(4, side), {})

  after, values = jax.eval_shape(advance)
  assert after.batch_stats == {} and values["loss"].shape == ()


def test_an_evaluation_step_ignores_padding():
  model, variables = network(BcosOps())
  batch = batch_of(8)
  count = step.make_eval_step(objectives.Supervised(model, losses.bce))
  full = count(variables, batch | {"mask": np.ones(8, np.float32)}, {})
  mask = np.arange(8) < 5
  poisoned = np.where(mask[:, None, None, None], batch["image"], np.nan)
  part = count(variables, batch | {"image": poisoned, "mask": mask.astype(np.float32)}, {})
  logits = jax.jit(model.apply)(variables, model.ops.encoding(batch["image"]))
  each = np.asarray(losses.bce(logits, jnp.asarray(batch["label"])))
  assert full["count"] == 8 and part["count"] == 5
  np.testing.assert_allclose(part["loss"], each[:5].sum(), rtol=1e-5)
  np.testing.assert_allclose(full["loss"], each.sum(), rtol=1e-5)


# -------------------------------------------------------------------------- runs
@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("finished")
  return folder, train(folder)


def test_a_run_reports_its_evaluations(finished):
  folder, result = finished
  assert [row["step"] for row in result.history] == [3, 6]
  assert all(row["count"] == 40 for row in result.history)
  assert result.metrics == result.history[-1]
  assert result.labels == tuple("0123456789") and int(result.state.step) == 6
  lines = logs.read_lines(folder / "metrics.jsonl")
  assert [row["step"] for row in lines if "train/loss" in row] == [2, 4, 6]
  assert [row["eval/accuracy"] for row in lines if "eval/accuracy" in row] == [
    row["accuracy"] for row in result.history
  ]
  assert list((folder / "tensorboard").glob("events*"))


def test_the_history_is_what_evaluating_anew_gives(finished):
  _, result = finished
  test_set = Examples(open_dataset("digits", "test[:40]"), result.preprocess)
  again = evaluate.evaluate(result.model, result.variables, test_set, loss="bce", batch_size=7)
  assert again["count"] == 40
  assert again["accuracy"] == result.metrics["accuracy"]
  assert again["loss"] == pytest.approx(result.metrics["loss"], rel=1e-5)


def test_nothing_is_compiled_twice(tmp_path, caplog):
  counts = {}

  def count(step, state):
    del state
    counts[step] = sum("Compiling" in record.message for record in caplog.records)

  with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
    train(tmp_path, hooks=[count])
  assert 0 < counts[1] < counts[3]  # The training step, and the first evaluation.
  assert counts[3] == counts[6]


@pytest.mark.parametrize(
  "stop", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, finished, stop):
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, hooks=[stop_at(stop)])
  seen = []
  result = train(tmp_path, hooks=[lambda step, state: seen.append(step)])
  saved = stop // 2 * 2  # A checkpoint every two steps.
  assert seen == list(range(saved + 1, 7))
  assert_equal(plain(result.state), plain(finished[1].state))
  assert result.history == finished[1].history
  lines = logs.read_lines(tmp_path / "metrics.jsonl")
  steps = [row["step"] for row in lines]
  assert steps == sorted(steps) and steps.count(6) == 2


def test_a_finished_run_is_not_repeated(finished):
  folder, result = finished
  again = train(folder, hooks=[stop_at(0)])
  assert_equal(plain(again.state), plain(result.state))
  assert again.history == result.history


def test_sigterm_saves_and_stops(tmp_path, finished):
  def terminate(step, state):
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(KeyboardInterrupt, match=r"step 4 of 6.*saved"):
    train(tmp_path, "--config.checkpoint_every=0", hooks=[terminate])
  assert signal.getsignal(signal.SIGTERM) is before
  result = train(tmp_path, "--config.checkpoint_every=0")
  assert_equal(plain(result.state), plain(finished[1].state))


def test_a_run_resumes_on_another_mesh(tmp_path, finished):
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, hooks=[stop_at(4)])
  result = train(tmp_path, "--config.mesh.data=8")
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6),
    plain(result.state),
    plain(finished[1].state),
  )


def test_starting_points(tmp_path):
  conventional = train(tmp_path / "a", spec="digits:conventional")
  bundle = bcos_jax.save(
    tmp_path / "bundle",
    conventional.model,
    conventional.variables,
    preprocess=conventional.preprocess,
    labels=conventional.labels,
  )
  ours = bcos_jax.bcosify(conventional.model, conventional.variables, ops=BcosOps(b=2.0))
  in_memory = train(tmp_path / "b", spec="digits:bcosify", init=ours)
  from_bundle = train(tmp_path / "c", f"--config.init={bundle}", spec="digits:bcosify")
  assert isinstance(from_bundle.model.ops, BcosOps)
  assert_equal(in_memory.variables, from_bundle.variables)
  # The network given in memory is not used up.
  assert np.isfinite(jax.tree.leaves(ours[1])[0]).all()

  with pytest.raises(InputError, match="resnet_tiny"):
    start.network(recipe(f"--config.init={bundle}", "--config.model.name=resnet8"))
  with pytest.raises(InputError, match=r"num_classes=10.* 7"):
    start.network(recipe(f"--config.init={bundle}", "--config.model.num_classes=7"))
  bcos = bcos_jax.save(tmp_path / "bcos", *ours)
  with pytest.raises(InputError, match="same ops"):
    start.network(recipe(f"--config.init={bcos}", "--config.ops.b=1.5"))


@pytest.fixture(scope="module")
def conventional_bundle(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("bundle") / "conventional")
  encoding = Encoding((0.305,), (0.376,))
  fields = {key: value for key, value in MODEL.items() if key != "name"}
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(encoding=encoding), **fields)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  bcos_jax.save(folder, model, jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes))
  return folder


@pytest.mark.parametrize(
  "override, problem",
  [
    ("model.widht=8", suggestion("width")),
    ("model.width=16", "width=4.*16"),
    ("ops.encoding.mean=(0.5,)", "has the encoding mean"),
    ("ops.encoding.paring=negated", suggestion("pairing")),
  ],
)
def test_a_recipe_that_contradicts_its_bundle(conventional_bundle, override, problem):
  config = recipe(
    f"--config.init={conventional_bundle}",
    f"--config.{override}",
    spec="digits:bcosify",
  )
  with pytest.raises(InputError, match=problem):
    start.network(config)


def test_fold_mean_reaches_bcosify(conventional_bundle):
  def biases(fold):
    config = recipe(
      f"--config.init={conventional_bundle}",
      "--config.ops.use_bias=true",
      f"--config.fold_mean={fold}",
      spec="digits:bcosify",
    )
    return start.network(config)[1]["params"]["bn1"]["bias"]

  assert not np.array_equal(biases("true"), biases("false"))


@pytest.mark.parametrize(
  "name, override, problem",
  [
    ("resnet8", "ops.pool=blur", "no spatial pool"),
    ("simple_vit_tiny", "ops.norm=batch", "no batch norm"),
    ("simple_vit_tiny", "statistics=running", "no batch norm"),
    ("resnet8", "statistics=running", None),
    ("resnet8", "optimizer.bias_decay=0.1", "named 'bias'"),
    ("resnet8", "optimizer.b_decay=0.1", "named 'b'"),
    ("resnet8", "optimizer.decay_rules=(('nothing', 0.1),)", "no parameter matches"),
    ("resnet8", "optimizer.decay_rules=(('bn1', 0.1),)", None),
    ("resnet8", "ops.recompute=true", "ops.recompute does nothing"),
    ("resnet_tiny", "ops.pool=blur", None),
    ("resnet8", "ops.norm=instance", None),
  ],
)
def test_options_without_effect_are_refused(name, override, problem):
  overrides = [f"--config.model.name={name}", f"--config.{override}"]
  config = configs.load_config("digits:scratch", overrides)
  model, _ = start.network(config)
  side, channels = model.image_size, model.ops.encoding.channels
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, channels)))
  if problem is None:
    start.check_effects(config, model, variables)
  else:
    with pytest.raises(InputError, match=problem):
      start.check_effects(config, model, variables)


def test_the_command_saves_a_bundle(tmp_path, capsys):
  arguments = configs.format_config(recipe()).splitlines()
  assert cli.main(["train", "--config=digits:scratch", f"--workdir={tmp_path}", *arguments]) == 0
  bundle = bcos_jax.load(tmp_path / "bundle")
  assert bundle.labels == tuple("0123456789") and bundle.preprocess.size == (8, 8)
  assert bundle.config["provenance"]["metrics"]["step"] == 6


# ------------------------------------------------------------------ checkpoints
def saved_state():
  return sharding.init_sharded(lambda: {"w": jnp.arange(3.0)}, abstract())


def abstract(name="w", dtype=jnp.float32, size=3):
  return sharding.abstract(lambda: {name: jnp.zeros(size, dtype)}, (), mesh_of(1))


@pytest.mark.parametrize(
  "like, problem",
  [
    ({"dtype": jnp.bfloat16}, r"w is float32\[3\], expected bfloat16\[3\]"),
    ({"size": 4}, r"w is float32\[3\], expected float32\[4\]"),
    ({"name": "v"}, "v is missing; w is unexpected"),
  ],
)
def test_a_checkpoint_that_does_not_fit(tmp_path, like, problem):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, saved_state(), {})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert_equal(checkpoints.restore(1, abstract()), saved_state())
    with pytest.raises(InputError, match=problem):
      checkpoints.restore(1, abstract(**like))


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, saved_state(), {})
  (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps == [1]
    checkpoints.save(2, saved_state(), {})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps[-1] == 2


@pytest.mark.parametrize(
  "change, message",
  [
    ("--config.ops.b=1.5", "network b: 2.0 there, 1.5 now"),
    ("--config.model.width=8", "network width: 4 there, 8 now"),
    ("--config.optimizer.lr=1", "config optimizer.lr"),
    ("--config.steps=3", "finished 6 steps"),
  ],
)
def test_another_run_is_not_resumed(finished, change, message):
  with pytest.raises(InputError, match=message):
    train(finished[0], change)


# ---------------------------------------------------------------------- mistakes
def test_mistakes_before_any_work(tmp_path):
  file = tmp_path / "file"
  file.touch()
  with pytest.raises(InputError, match="Cannot write"):
    train(file / "run")
  for change, message in (
    ("--config.data.batch_size=12", "does not split over 8"),
    ("--config.mesh.fsdp=3", "does not fit 8 devices"),
    ("--config.data.augment.crop=shfit", suggestion("shift")),
    ("--config.model.num_classes=9", "10"),
    ("--config.model.name=resnet_8", suggestion("resnet8")),
    ("--config.ops.wieghts=unit", suggestion("weights")),
    ("--config.loss.name=bcee", suggestion("bce")),
    ("--config.steps=0", "at least 1"),
    ("--config.init=nowhere", "nowhere"),
  ):
    with pytest.raises(InputError, match=message):
      train(tmp_path / "run", "--config.mesh.data=8", change)
  assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------- metrics
class Lazy:
  """A device scalar that knows when it was read."""

  def __init__(self, step, read):
    self.step, self.read = step, read

  def __array__(self, dtype=None, copy=None):
    self.read.append(self.step)
    return np.asarray(float(self.step))


def test_metrics_are_read_one_step_late(tmp_path):
  read = []
  with logs.MetricWriter(
    tmp_path, steps=3, start_step=0, batch_size=1, log_every=1, progress=False
  ) as writer:
    for step_ in (1, 2, 3):
      writer.train(step_, dict.fromkeys(("loss", "accuracy", "learning_rate"), Lazy(step_, read)))
      assert set(read) == set(range(1, step_))
  assert set(read) == {1, 2, 3}
  assert [row["train/loss"] for row in logs.read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  values = dict.fromkeys(("loss", "accuracy", "learning_rate"), jnp.float32(np.nan))
  with (
    pytest.raises(FloatingPointError, match=r"nan.*at step 2"),
    logs.MetricWriter(
      tmp_path, steps=3, start_step=1, batch_size=1, log_every=1, progress=False
    ) as writer,
  ):
    writer.train(2, values)
    writer.train(3, values)


def test_lines_cut_short_are_dropped(tmp_path):
  file = tmp_path / "metrics.jsonl"
  file.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "tr')
  assert logs.read_lines(file) == [{"step": 1}]
