"""A program, which knows no architecture, finds the W(x) that every network of the zoo declares."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax import InputError, dynamic_linear, program
from bcos_jax.program.certificate import holds, prove
from bcos_jax.program.values import Body, Holding

from ..common import rel
from .networks import ALL, QUICK, case


def besides(quick):
  """Returns all networks, those that are not `quick` in the slow lane."""
  return [each if each in quick else pytest.param(*each, marks=pytest.mark.slow) for each in ALL]


def by_source(residuals, declared):
  """Returns residuals named by variables and places under the names that networks declare."""
  found = {}
  for path, share in residuals.items():
    last = {"mean": "running_mean"}.get(path.split("/")[-1], path.split("/")[-1])
    last = last if last in declared else "elsewhere"
    found[last] = found.get(last, 0.0) + share
  left = [share for name, share in declared.items() if name not in found]
  return found, {**declared, "elsewhere": sum(left)} if "elsewhere" in found else declared


@pytest.mark.parametrize("name, family", besides(QUICK[:3]))
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
  # Where the last digit of the input alone makes more of the declared map than 1e-5, the roundings
  # of the two computations, which are ordered differently, are allowed three times as much.
  digit = max(1e-5, 3 * rel(declared.weights[2:], declared.weights[:2]))
  scale = float(jnp.abs(declared.contributions).sum() + jnp.abs(declared.value).sum())
  assert rel(traced.value, declared.value) <= 1e-5
  assert rel(traced.weights, declared.weights) <= digit
  assert rel(traced.contributions, declared.contributions) <= digit
  assert np.abs(traced.residual - declared.residual).max() <= 1e-5 * scale
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


@pytest.mark.parametrize("name, family", besides(QUICK))
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


@pytest.mark.parametrize("name, family", besides(QUICK[:1]))
def test_jax_transposes_the_held_program(name, family):
  own = case(name, family)
  certificate = own.program.check(own.variables, own.inputs)
  assert certificate.transposed <= 1e-5
  assert "affine in the input" in str(certificate)
