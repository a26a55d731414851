"""`bcos-jax compile` for GPUs: memory and traffic of programs before they are compiled."""

import jax
import jax.numpy as jnp
import pytest

from bcos_jax import InputError, cli
from bcos_jax.train import config
from bcos_jax.train.estimates import check_topology, gpus, pod
from bcos_jax.train.estimates.chips import GPUS
from bcos_jax.train.estimates.lowered import footprint

X, W = jnp.zeros((8, 16)), jnp.zeros((16, 4))
SMALL = ("--config.data.image_size=16", "--config.data.batch_size=16")


def recipe(*overrides):
  return config.load_config("bcosify_cnn:runlocal", [*SMALL, *overrides])


def used(function, *arguments):
  return footprint(jax.jit(function).lower(*arguments))


@pytest.mark.parametrize(
  "function, traffic",
  [
    # Reads x and w, writes the product.
    (lambda x, w: x @ w, 512 + 256 + 128),
    # A chain costs one more reading and writing, however long it is.
    (lambda x, w: jax.nn.relu(x @ w + 1) * 2, 512 + 256 + 128 + 2 * 128),
    # A sum takes the chain in: its product is read, four bytes are written.
    (lambda x, w: jnp.sum(jnp.square(x @ w)), 512 + 256 + 128 + 128 + 4),
    # A product reads arrays: the chain before it is written.
    (lambda x, w: (2 * x) @ w, 2 * 512 + 512 + 256 + 128),
    (lambda x, w: jnp.zeros((4,)) + 1, 0),
  ],
)
def test_traffic_of_chains(function, traffic):
  assert used(function, X, W).traffic == traffic


def test_temporaries_are_those_that_live_at_once():
  assert used(lambda x, w: x @ w, X, W).temporaries == 0  # the result is not one
  assert used(lambda x, w: (x @ w) @ w.T, X, W).temporaries == 128

  def loss(w, x, depth):
    for _ in range(depth):
      x = jnp.tanh(x @ w)
    return jnp.sum(x)

  square = jnp.zeros((64, 64))
  held = [
    used(jax.grad(lambda w, x, n=n: loss(w, x, n)), square, square).temporaries for n in (8, 16)
  ]
  assert 8 * 16384 <= held[1] - held[0] <= 2.1 * 8 * 16384  # results that wait for the way back
  forward = [used(lambda w, x, n=n: loss(w, x, n), square, square).temporaries for n in (8, 16)]
  assert forward[0] == forward[1]  # nothing waits


def test_loops_count_once_and_are_said():
  def many(x):
    return jax.lax.fori_loop(0, 5, lambda i, y: y @ y, x)

  assert used(many, jnp.zeros((4, 4))).loops == 1


def test_a_gpu_has_its_share_of_the_batch():
  whole = gpus.estimate_recipe(recipe(), "h100:1")
  eight = gpus.estimate_recipe(recipe("--config.data.batch_size=128"), "h100:8")
  assert eight.devices == 8 and eight.batch_size == 128
  assert eight.traffic == whole.traffic and eight.memory == whole.memory
  assert eight.flops == pytest.approx(pod.arithmetic(recipe()), rel=1e-6)
  assert whole.exchange == 0 < eight.exchange
  assert eight.step_seconds(1) == pytest.approx(whole.step_seconds(1) + eight.exchange)
  parts = gpus.estimate_recipe(recipe("--config.accumulate=4"), "h100:1")
  assert parts.memory["temporaries"] < whole.memory["temporaries"] / 2
  assert parts.flops == pytest.approx(whole.flops, rel=0.1)


def test_state_that_is_split_and_products_in_float32():
  axes = ["--config.mesh.data=1", "--config.mesh.fsdp=-1", "--config.data.batch_size=128"]
  assert gpus.estimate_recipe(recipe(*axes), "h100:8").memory["total"] > 0  # nothing is split
  split = [*axes, '--config.layout=(("", "fsdp"),)']
  whole = gpus.estimate_recipe(recipe("--config.data.batch_size=128"), "h100:8")
  shared = gpus.estimate_recipe(recipe(*split), "h100:8")
  assert shared.memory["arguments"] < whole.memory["arguments"]
  assert shared.exchange == pytest.approx(1.5 * whole.exchange)
  narrow = gpus.estimate_recipe(recipe("--config.ops.dtype=bfloat16"), "h100:1")
  assert narrow.chip == GPUS["h100"] and whole.chip.flops == narrow.chip.flops / 2
  assert narrow.traffic < whole.traffic


@pytest.mark.parametrize("topology", ["h100", "h100:", "h100:0", "h100:9", "a100:4x4", "h900:8"])
def test_gpus_that_are_none(topology):
  with pytest.raises(InputError, match=r"expected 1 to 8|Unknown"):
    check_topology(topology)


def test_recipes_that_no_host_can_split():
  with pytest.raises(InputError, match="does not split into 8 equal parts"):
    gpus.estimate_recipe(recipe("--config.data.batch_size=12"), "h100:8")
  with pytest.raises(InputError, match="does not fit 1 GPUs"):
    gpus.estimate_recipe(recipe("--config.mesh.fsdp=2"), "h100:1")


def test_the_command_says_what_is_an_estimate(monkeypatch, capsys):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  arguments = ["--config=bcosify_cnn:runlocal", *SMALL, "--config.steps=90 epochs"]
  assert cli.main(["compile", "--topology=h200:1", "--examples=1600", *arguments]) == 0
  said = capsys.readouterr().out
  for words in ("9000 steps, 90 epochs", "chip-hours (estimate)", "before it is compiled", "cores"):
    assert words in said, said
  assert "Compiling" not in said
  many = ["--config.data.batch_size=8388608", "--config.data.image_size=64"]
  assert cli.main(["compile", "--topology=h200:1", *arguments, *many]) in (1, 2)
