"""A program, which knows no architecture, finds the W(x) that every network of the zoo declares."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps, cli, dynamic_linear, program
from bcos_jax.explain.tokens import dynamic_tokens
from bcos_jax.program.certificate import holds, prove
from bcos_jax.program.values import Body, Holding

from ..common import filled, rel
from .networks import ALL, QUICK, TEXTS, besides, case


def by_source(residuals, declared):
  """Returns residuals named by variables and places under the names that networks declare."""
  found = {}
  for path, share in residuals.items():
    last = {"mean": "running_mean"}.get(path.split("/")[-1], path.split("/")[-1])
    last = last if last in declared else "elsewhere"
    found[last] = found.get(last, 0.0) + share
  left = [share for name, share in declared.items() if name not in found]
  return found, {**declared, "elsewhere": sum(left)} if "elsewhere" in found else declared


@pytest.mark.parametrize("name, family", besides(QUICK[:3], ALL))
def test_the_map_is_the_declared_one(name, family):
  own = case(name, family)
  classes = jnp.asarray([1, 2, 1, 2])
  images = jnp.concatenate([own.images, jnp.nextafter(own.images, 0.0)])

  @jax.jit
  def both(variables, images):
    inputs = own.model.ops.encoding(images)
    traced = program.dynamic_map(own.program, variables, inputs, classes)
    return traced, dynamic_linear(own.model, variables, images, classes)

  with jax.default_matmul_precision("highest"):
    traced, declared = both(own.variables, images)
  # Where the last digit of the input alone makes more of the declared network than 1e-5, the
  # roundings of the two computations, which are ordered differently, are allowed three times that.
  values, maps = (
    max(1e-5, 3 * rel(each[2:], each[:2])) for each in (declared.value, declared.weights)
  )
  scale = float(jnp.abs(declared.contributions).sum() + jnp.abs(declared.value).sum())
  assert rel(traced.value, declared.value) <= values
  assert rel(traced.weights, declared.weights) <= maps
  assert rel(traced.contributions, declared.contributions) <= maps
  assert np.abs(traced.residual - declared.residual).max() <= values * scale
  assert traced.completeness_error.max() <= 1e-5
  found, wanted = by_source(traced.residuals, declared.residuals)
  for source, share in found.items():
    assert np.abs(share - wanted[source]).max() <= 1e-5 * scale, source


def mutants(body: Body):
  """Yields (equation, the body with one of its holds removed), bodies of calls included."""
  for i, equation in enumerate(body.equations):
    changed = [dataclasses.replace(equation, held=equation.held - {j}) for j in equation.held]
    if equation.form in (Holding.GATE, Holding.LARGER):
      changed.append(dataclasses.replace(equation, form=Holding.PLAIN))
    inner = [
      (
        culprit,
        dataclasses.replace(
          equation, bodies=(*equation.bodies[:j], mutant, *equation.bodies[j + 1 :])
        ),
      )
      for j, called in enumerate(equation.bodies)
      for culprit, mutant in mutants(called)
    ]
    for culprit, mutant in [*((equation, each) for each in changed), *inner]:
      rest = body.equations[:i], body.equations[i + 1 :]
      yield culprit, dataclasses.replace(body, equations=(*rest[0], mutant, *rest[1]))


@pytest.mark.parametrize("name, family", besides(QUICK, ALL))
def test_a_certificate_misses_no_single_hold(name, family):
  traced = case(name, family).program
  count = 0
  traced.check()
  for culprit, mutant in mutants(traced.body):
    count += 1
    with pytest.raises(InputError) as refused:
      prove(mutant, traced.values)
    assert str(culprit) in refused.value.cause
  assert count >= sum(map(holds, traced.body.walk())) > 0


@pytest.mark.parametrize("name, family", besides(QUICK[:1], ALL))
def test_jax_transposes_the_held_program(name, family):
  own = case(name, family)
  certificate = own.program.check(own.variables, own.inputs)
  assert certificate.transposed <= 1e-5
  assert "affine in the input" in str(certificate)


@pytest.mark.parametrize("name", besides(("llama_tiny",), TEXTS))
def test_language_models_are_functions_of_their_embeddings(name):
  model = bcos_jax.create(name, ops=BcosOps.lm())
  variables = filled(model)
  function, example = program.network_function(model, length=6)
  traced = program.trace(function, variables, example)
  ids = jnp.asarray(np.random.RandomState(0).randint(1, model.vocab_size, (2, 6)))
  at = None if getattr(model, "num_classes", 0) else jnp.asarray([5, 3])
  ex = jax.jit(lambda ids: dynamic_tokens(model, variables, ids, jnp.asarray([1, 0]), at=at))(ids)

  def chosen(outputs):
    logits = outputs if at is None else outputs[jnp.arange(2), at]
    return logits[jnp.arange(2), jnp.asarray([1, 0])]

  found = jax.jit(lambda x: program.dynamic_map(traced, variables, x, chosen))(ex.inputs)
  traced.check()
  assert rel(found.value, ex.value) <= 1e-5
  assert rel(found.weights, ex.weights) <= 2e-5
  assert np.abs(found.residual - ex.residual).max() <= 1e-5 * np.abs(found.contributions).sum()


def test_a_bundle_is_checked_from_the_command_line(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  model = bcos_jax.create("resnet_tiny", ops=BcosOps())
  bcos_jax.save(tmp_path / "bundle", model, filled(model))
  assert cli.main(["check", str(tmp_path / "bundle"), "--sources"]) == 0
  printed = capsys.readouterr().out
  assert "resnet_tiny: affine in the input" in printed and "transpose agrees" in printed
  assert "  constant at ResNet/ResNet.classified/logits (sources.py:" in printed


def test_networks_of_token_ids_alone_have_no_input_to_be_affine_in():
  model = bcos_jax.create("clip_text_test", ops=StandardOps())
  with pytest.raises(InputError, match="takes no embeddings"):
    program.network_function(model)
