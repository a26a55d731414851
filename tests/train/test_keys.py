"""Keys of recipes: each one is read by what its recipe chooses, or refused with what reads it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import InputError, StandardOps
from bcos_jax.configs.sections import KEYS
from bcos_jax.inputs import Preprocess
from bcos_jax.train import average, loop, objectives, optimizer, plan, sharding, start
from bcos_jax.train import config as configs
from bcos_jax.train.data import augment
from bcos_jax.train.objectives import losses

from ..common import filled

SPECS = [f"{name}:{variant}" for name in configs.names() for variant in ("", "runlocal")]
TINY = ("name=resnet_tiny", "stages=(1,)", "width=4", "image_size=8")


def candidates(key, value):
  """Yields other values of a key."""
  if key.names:
    yield from (name for name in key.names if name != value)
  elif key.duration or isinstance(key.default, int | float):
    if isinstance(value, bool):
      yield not value
      return
    value = 0 if isinstance(value, str) else value
    yield from (type(key.default)(value + step) for step in (1, 0.5, 0.25, -0.25, -0.5, -1, -2))
  elif isinstance(key.default, tuple):
    yield (0.1, 0.2)
    yield (("kernel", 0.1),)
    yield ("kernel",)
  else:
    yield "something"


def turned(key, value):
  """Returns another value of a key that is in range."""
  for other in candidates(key, value):
    try:
      configs.check_values({key.name: other})
    except InputError:
      continue
    if other != value:
      return other
  raise AssertionError(f"no other value of {key.name}")


@pytest.mark.parametrize("spec", SPECS)
def test_every_key_of_every_recipe_is_read_or_refused(spec):
  """Turned from the command line, it is in the recipe, or its error names a key to set."""
  recipe = configs.load_config(spec)
  values, read = configs.flatten(recipe), configs.read_keys(recipe)
  for name, key in KEYS.items():
    other = turned(key, values[name])
    try:
      changed = configs.load_config(spec, [f"--config.{name}={other}"])
    except InputError as error:
      by_another = name in read  # Turned, it may leave another key that is asked for without use.
      assert by_another or "It is read with" in error.fix, f"{spec} {name}: {error}"
      continue
    assert configs.flatten(changed)[name] == other, f"{spec} {name}"
    assert name in configs.read_keys(changed) and changed != recipe


def test_an_error_says_what_would_read_the_key():
  for spec, override, choice in (
    ("digits:scratch", "loss.smoothing=0.1", "loss.name=bce or cross_entropy"),
    ("digits:conventional", "loss.off=0.1", "loss.name=uniform_off_label_bce"),
    ("digits", "objective.token_weight=2.0", "objective.name=align"),
    ("digits", "data.tokenizer=reviews", "objective.name=text, masked_lm or causal_lm"),
    ("digits", "data.held_out=0.5", "data.folder set"),
    ("digits", "optimizer.momentum=0.5", "optimizer.name=sgd"),
    ("digits", "optimizer.b_schedule.end=3.0", "optimizer.b_schedule.steps set"),
    ("digits", "ema.every=2", "ema.decay set"),
    ("digits", "text.width=8", "objective.name=pairs"),
    ("bcosify_lm", "data.image_size=32", "objective.name=supervised, match, align, clip or pairs"),
    ("pretrain_lm", "loss.name=bce", "objective.name=supervised, match or text"),
    ("pretrain_lm", "model.num_classes=3", "objective.name=supervised"),
  ):
    with pytest.raises(InputError) as error:
      configs.load_config(spec, [f"--config.{override}"])
    assert override.partition("=")[0] in error.value.cause and choice in error.value.fix


def test_a_choice_drops_what_the_recipe_set_for_another():
  recipe = configs.load_config("bcosify_vit", ["--config.data.folder=pictures"])
  assert recipe.data.name == "" and "data.name" not in configs.read_keys(recipe)
  other = configs.load_config("align_vit", ["--config.optimizer.schedule=cosine"])
  assert other.optimizer.decay_steps == 0
  cleared = configs.load_config(
    "align_vit", ["--config.optimizer.schedule=cosine", "--config.optimizer.decay_steps=0"]
  )
  assert cleared == other


def test_a_recipe_that_sets_what_nothing_reads_is_refused():
  recipe = ConfigDict(configs.load_config("digits").to_dict(), type_safe=False)
  recipe.objective.token_weight = 2.0
  with pytest.raises(InputError, match="token_weight"):
    configs.settle(recipe)
  assert configs.settled_values(configs.flatten(recipe))["objective.token_weight"] == 1.0


@pytest.mark.parametrize(
  "override",
  [
    *("steps=1e20", "steps=3000000000", "steps=9e99 epochs", "seed=-1", "data.workers=-1"),
    *("optimizer.lr=inf", "log_every=0"),
    *("layout=(('(', 'fsdp'),)", "layout=(3,)", "optimizer.decay_rules=(('*', 0.1),)"),
    *("data.augment.flip=2.0", "ema.decay=1.0", "nonfinite=ignore", "data.damaged=maybe"),
  ],
)
def test_bad_values_are_refused_before_anything_starts(override):
  with pytest.raises(InputError) as error:
    configs.load_config("bcosify_cnn", [f"--config.{override}"])
  assert override.partition("=")[0] in error.value.cause and "\n" not in str(error.value)


# ------------------------------------------------------- what a run reads of its recipe
class Recorder:
  """A recipe that notes which keys are read; walking over all of them is no reading."""

  def __init__(self, config, seen, prefix=""):
    self._config, self._seen, self._prefix = config, seen, prefix

  def __getitem__(self, name):
    value = self._config[name]
    if isinstance(value, ConfigDict):
      return Recorder(value, self._seen, f"{self._prefix}{name}.")
    self._seen.add(self._prefix + name)
    return value

  def __getattr__(self, name):
    return self[name]

  def __contains__(self, name):
    return name in self._config

  def get(self, name, default=None):
    return self[name] if name in self._config else default

  def keys(self):
    return self._config.keys()

  def items(self):
    if self._prefix == "model.":  # A network's fields are compared with those of a bundle.
      self.to_dict()
    return self._config.items()

  def to_dict(self):
    self._seen.update(self._prefix + name for name in configs.flatten(self._config))
    return self._config.to_dict()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
  """A teacher, a folder of pictures, one of texts with labels, and a file of texts."""
  folder = tmp_path_factory.mktemp("places")
  fields = {"image_size": 8, "patch_size": 4, "depth": 2, "width": 8, "num_heads": 2, "mlp_dim": 8}
  model = bcos_jax.create("vit_test", ops=StandardOps(), num_classes=0, **fields)
  preprocess = bcos_jax.Preprocess((8, 8), resize=0)
  bcos_jax.save(folder / "teacher", model, filled(model), preprocess=preprocess)
  model = model.clone(num_classes=2)
  bcos_jax.save(folder / "classifier", model, filled(model), preprocess=preprocess)
  for number in range(24):
    place = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 9 * number, np.uint8)).save(place)
  rows = [f"a film that is {'good' if i % 2 else 'bad'},{i % 2}\n" for i in range(24)]
  (folder / "texts").mkdir()
  for name in ("texts/train.csv", "texts/test.csv", "texts.csv"):
    (folder / name).write_text("text,label\n" + "".join(rows))
  return folder


def shared(*options):
  return [
    *(f"--config.{option}" for option in options),
    *("--config.steps=2", "--config.checkpoint_every=2", "--config.mesh.data=1"),
    *("--config.optimizer.warmup_steps=0", "--config.data.batch_size=8"),
  ]


def runs(places):
  model = [f"model.{field}" for field in TINY]
  words = [f"model.{field}" for field in ("width=8", "mlp_dim=8", "context_length=16")]
  student = [f"model.{field}" for field in ("patch_size=4", "depth=2", "width=8", "mlp_dim=8")]
  student += ["model.num_heads=2", "model.name=vit_test", "data.image_size=8", "ops.family=bcos"]
  student += ["ops.dtype=float32", "optimizer.decay_steps=1"]
  teacher = f"objective.teacher={places}/teacher"
  texts, file = f"data.folder={places}/texts", f"data.folder={places}/texts.csv"
  pictures = f"data.folder={places}/pictures"
  splits = ("data.train_split=train", "data.test_split=test")
  crops = ("crop=random_resized", "policy=rand_augment", "mixup=0.2")
  supervised = [*model, "data.image_size=8", *(f"data.augment.{option}" for option in crops)]
  b = ("ops.learn_b=true", "optimizer.b_schedule.steps=1", "ema.decay=0.9", "loss.name=bce")
  folder = (pictures, "model.num_classes=2", "optimizer.name=sgd", "watch.explain_every=1")
  return {
    "supervised": ("digits:scratch", [*supervised, *b, "data.test_split=test[:8]"]),
    "folder": ("digits:scratch", [*supervised, *folder]),
    "align": ("align_vit:runlocal", [*student, teacher, pictures, "data.unlabelled=true"]),
    "match": (
      "align_vit:runlocal",
      [
        *student,
        *(f"objective.teacher={places}/classifier", "objective.name=match", pictures),
        *("model.num_classes=2", "loss.name=bce"),
      ],
    ),
    "clip": ("align_vit:runlocal", [*student, teacher, "objective.name=clip", pictures]),
    "text": ("bcosify_lm:runlocal", [*words, texts, *splits]),
    "masked_lm": ("pretrain_lm:masked_lm,runlocal", [*words, file]),
  }


COMPILED = {"objective.teacher_model"}  # Read by `bcos-jax compile` alone.
NAMES = ("supervised", "folder", "align", "match", "clip", "text", "masked_lm")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_reads_every_key_that_its_choices_read(name, places, tmp_path, monkeypatch):
  spec, options = runs(places)[name]
  config, seen = configs.load_config(spec, shared(*options)), set()
  settle, in_steps = configs.settle, configs.in_steps
  monkeypatch.setattr(loop, "settle", lambda config: Recorder(settle(config), seen))
  monkeypatch.setattr(plan, "in_steps", lambda *given: Recorder(in_steps(*given), seen))
  loop.train(config, workdir=tmp_path / "run", progress=False)
  assert set(configs.read_keys(config)) - seen - COMPILED == set()


def test_pairs_read_their_keys():
  overrides = ("--config.init=", "--config.text.depth=1")
  config, seen = configs.load_config("shape_captions", overrides), set()
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  objectives.from_config(Recorder(config, seen), start.network(config)[0], mesh)
  pairs = {"objective.captions", "text.name", "text.depth", "seed"}
  assert pairs <= seen and pairs <= set(configs.read_keys(config))


# ------------------------------------------------------------- differences that values make
def test_every_key_of_the_optimizer_makes_a_difference():
  params = {"kernel": jnp.arange(1.0, 5.0), "bias": jnp.ones(2), "b": jnp.float32(1.5)}
  grads = jax.tree.map(lambda leaf: 3 + leaf, params)
  bases = (
    {"name": "adamw", "schedule": "constant", "steps": 0, "agc": 0.0},
    {"name": "sgd", "schedule": "cosine", "steps": 5, "agc": 0.0},
  )

  def outcome(config):
    made = optimizer.build(config, steps=40, steps_per_epoch=4)
    now = made.start(params)
    state, found = made.tx.init(now), []
    for scale in (1.0, -0.3, 0.7):
      given = jax.tree.map(functools.partial(jnp.multiply, scale), grads)
      updates, state = made.tx.update(given, state, now)
      now = jax.tree.map(jnp.add, now, updates)
    found = [*jax.tree.leaves(now), *(made.learning_rate(step) for step in (0, 7, 40))]
    return np.concatenate([np.ravel(leaf) for leaf in found])

  different = set()
  for base in bases:
    overrides = [f"--config.optimizer.{key}={base[key]}" for key in ("name", "schedule", "agc")]
    overrides.append(f"--config.optimizer.b_schedule.steps={base['steps']}")
    config = configs.load_config("digits", overrides)
    before = outcome(config.optimizer)
    for name in configs.read_keys(config):
      if name.startswith("optimizer."):
        value = turned(KEYS[name], configs.flatten(config)[name])
        value = (("kernel", 0.1),) if name.endswith("decay_rules") else value
        changed = configs.load_config("digits", [*overrides, f"--config.{name}={value}"])
        if not np.array_equal(outcome(changed.optimizer), before):
          different.add(name)
  assert different == {name for name in KEYS if name.startswith("optimizer.")}


def test_every_key_of_the_augmentation_makes_a_difference():
  picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))
  overrides = ["crop=random_resized", "policy=rand_augment", "erase=0.5"]
  overrides = [f"--config.data.augment.{option}" for option in overrides]

  def outcome(config):
    made = augment.from_config(config.data.augment, Preprocess((16, 16), resize=0))
    rng = np.random.default_rng(0)
    return [made(made.prepare(picture), rng).tobytes() for _ in range(6)]

  before = outcome(configs.load_config("baseline", overrides))
  for name, other in (
    ("crop", "none"),
    ("scale", (0.5, 0.6)),
    ("flip", 0.9),
    ("policy", "trivial_augment_wide"),
    ("policy_operations", 4),
    ("policy_magnitude", 3),
    ("erase", 1.0),
  ):
    given = [text for text in overrides if name not in ("crop", "policy")]
    changed = configs.load_config("baseline", [*given, f"--config.data.augment.{name}={other}"])
    assert outcome(changed) != before, name


def test_every_key_of_losses_and_averages_makes_a_difference():
  logits, labels = jnp.arange(6.0).reshape(2, 3), jnp.array([0, 2])

  def loss(*overrides):
    section = configs.load_config("digits", [f"--config.{text}" for text in overrides]).loss
    return [
      losses.from_config(name, section)(logits, labels).tolist()
      for name in (section.name, section.eval_name)
    ]

  found = [
    loss("loss.name=bce", "loss.eval_name=bce"),
    loss("loss.name=bce", "loss.eval_name=bce", "loss.smoothing=0.1"),
    loss("loss.name=bce", "loss.eval_name=cross_entropy"),
    loss("loss.name=uniform_off_label_bce", "loss.eval_name=bce"),
    loss("loss.name=uniform_off_label_bce", "loss.eval_name=bce", "loss.off=0.2"),
  ]
  assert all(one != other for one, other in itertools.combinations(found, 2))

  def mean(*overrides):
    section = configs.load_config("digits", [f"--config.{text}" for text in overrides]).ema
    made = average.from_config(section, batch_size=1, epochs=1000, warmup=0)
    return made and dataclasses.astuple(made)

  found = [
    mean(),
    mean("ema.decay=0.9"),
    mean("ema.decay=0.8"),
    mean("ema.decay=0.9", "ema.every=2"),
  ]
  assert len(set(found)) == 4


def test_every_axis_of_the_mesh_makes_a_difference():
  axes = ({"data": 4}, {"data": 2, "fsdp": 2}, {"data": 2, "tensor": 2}, {"data": 1, "fsdp": -1})
  shapes = []
  for sizes in axes:
    overrides = [f"--config.mesh.{name}={size}" for name, size in sizes.items()]
    mesh = sharding.make_mesh(configs.load_config("digits", overrides).mesh, jax.devices()[:4])
    shapes.append(tuple(mesh.shape.items()))
  assert len(set(shapes)) == len(axes)
