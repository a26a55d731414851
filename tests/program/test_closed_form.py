"""Programs in closed form: networks of any library get back what B-cosification took."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from bcos_jax import InputError, program
from bcos_jax.calibration import Calibration, Effort
from bcos_jax.program.closed_form.chains import chain_of
from bcos_jax.program.closed_form.fitting import _programs

from ..common import rel

QUICK = Calibration(rows=4000, rows_per_channel=4, effort=Effort(1, 2, 5))


def channels_first(w, x):
  """A residual network in PyTorch's layout, with a normalised input and a block recomputed."""
  layout = ("NCHW", "OIHW", "NCHW")

  def conv(x, name):
    y = jax.lax.conv_general_dilated(x, w[name], (1, 1), "SAME", dimension_numbers=layout)
    return y + w[f"{name}_bias"][:, None, None]

  x = jax.nn.relu(conv((x - 0.3) / 0.4, "stem"))
  x = jax.nn.relu(x + jax.checkpoint(lambda x: conv(jax.nn.relu(conv(x, "a")), "b"))(x))
  return features(x) @ w["head"].T + w["head_bias"]


def features(x):
  return x[:, :, ::2, ::2].reshape(len(x), -1)


def drawn(shapes):
  rng = np.random.RandomState(0)
  sizes = {name: shape[1:] for name, shape in shapes.items()}
  return {
    name: jnp.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(sizes[name], initial=1))).astype(
      jnp.float32
    )
    * (0.1 if name.endswith("bias") else 1.4)
    for name, shape in shapes.items()
  }


SHAPES = {
  **{"stem": (12, 1, 3, 3), "a": (12, 12, 3, 3), "b": (12, 12, 3, 3), "head": (10, 192)},
  **{"stem_bias": (12,), "a_bias": (12,), "b_bias": (12,), "head_bias": (10,)},
}


@pytest.fixture(scope="module")
def digits():
  data = load_digits()
  order = np.random.RandomState(0).permutation(len(data.target))
  return (data.images[order, None] / 16).astype(np.float32), data.target[order]


@pytest.fixture(scope="module")
def trained(digits):
  """A network of random maps, and a head that is fitted to them."""
  images, labels = digits
  w = drawn(SHAPES)
  own = {**w, "head": jnp.eye(192), "head_bias": jnp.zeros(192)}
  seen = np.asarray(jax.jit(channels_first)(own, images[:1400]))
  mean = seen.mean(0)
  wanted = 10 * (np.eye(10)[labels[:1400]] - 0.1)
  gram = (seen - mean).T @ (seen - mean)
  head = np.linalg.solve(gram + 1e-2 * np.trace(gram) / 192 * np.eye(192), (seen - mean).T @ wanted)
  bias = -mean @ head
  return {**w, "head": jnp.asarray(head.T, jnp.float32), "head_bias": jnp.asarray(bias)}


def accuracy(function, variables, digits):
  images, labels = digits
  return float(np.mean(jax.jit(function)(variables, images[1400:]).argmax(-1) == labels[1400:]))


@pytest.mark.parametrize("pairing", ["none", "negated"])
def test_accuracy_comes_back(trained, digits, pairing):
  images, _ = digits
  traced = program.trace(channels_first, trained, images[:1])
  made = traced.bcosify(pairing=pairing)
  before = accuracy(channels_first, trained, digits)
  start = accuracy(made, made.variables, digits)
  variables, report = program.calibrate(made, images[:512], QUICK)
  found = accuracy(made, variables, digits)
  assert before > 0.95 and start < 0.7  # 98 % and 49 %
  assert found > before - 0.04
  assert report.agreement > report.agreement_before and not report.left
  assert [(m.path, m.gate) for m in report.maps] == [
    *(("stem", "relu"), ("a", "relu"), ("b", "relu"), ("head", ""))
  ]
  assert all(m.fit > 0.7 and m.fit > m.before and not m.kept for m in report.maps)
  assert jax.tree.structure(variables) == jax.tree.structure(made.variables)


def test_the_front_door(trained, digits):
  images, _ = digits
  traced = program.trace(channels_first, trained, images[:1])
  with pytest.warns(UserWarning, match="lean on the ridge"):
    made = traced.bcosify(b=1.5, calibrate=images[:16])
  assert made.decisions[0].settings.b == 1.5
  assert rel(made.variables["a"], trained["a"]) > 1e-2


def test_what_is_linear_stays_as_it_is(trained, digits):
  images, _ = digits
  same = program.trace(channels_first, trained, images[:1]).bcosify(b=1.0, biases="keep")
  variables, report = program.calibrate(same, images[:64], QUICK)
  assert report.agreement == report.agreement_before == 1.0
  found = same(variables, images[:64])
  assert rel(found, channels_first(trained, images[:64])) <= 1e-2


class Attention(nnx.Module):
  """Shared and scanned kernels, attention, and a position table."""

  def __init__(self, rngs):
    self.embed = nnx.Linear(8, 16, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)  # which has a key among its variables
    self.shared = nnx.Linear(16, 16, rngs=rngs)
    self.head = nnx.Linear(16, 5, rngs=rngs)

  def __call__(self, x):
    x = self.embed(x)
    x = x + self.dropout(self.attention(x))
    x = x + self.shared(nnx.relu(self.shared(x)))
    return self.head(x.mean(1))


def test_attention_and_kernels_that_are_shared(digits):
  images = digits[0][:64, 0]
  function, variables = program.function_of(Attention(nnx.Rngs(0)))
  traced = program.trace(function, variables, images)
  made = traced.bcosify()
  calibrated, report = program.calibrate(made, images, QUICK)
  paths = [m.path for m in report.maps]
  assert report.left == ("shared/kernel",)
  assert paths == [
    "embed/kernel",
    *(f"attention/{name}/kernel" for name in ("query", "key", "value", "out")),
    "head/kernel",
  ]
  assert report.maps[3].fit > 0.7
  expected, start, found = (
    network(v, images)
    for network, v in ((function, variables), (made, made.variables), (made, calibrated))
  )
  assert rel(found, expected) < 0.8 * rel(start, expected)


def test_chains_pass_views_and_end_before_what_is_not_affine():
  def network(w, x):
    y = (x @ w["a"]).reshape(len(x), 2, 3, 4).transpose(0, 2, 1, 3) * w["scale"]
    y = y + (x @ w["c"]).reshape(len(x), 1, 2, 12).reshape(len(x), 3, 2, 4)
    return jax.nn.relu6(y).reshape(len(x), -1) @ w["b"]

  w = drawn({"a": (6, 4), "c": (6, 4), "b": (24, 5), "scale": (4,)})
  x = jnp.ones((1, 6, 6))
  made = program.trace(network, w, x).bcosify()
  teacher, student, _ = _programs(made, made.program)
  chain = chain_of(teacher, "a")
  assert chain.gate == "relu6" and len(chain.sides) == 1 and len(chain.ends) == 2
  assert chain_of(student, "b").gate == ""


@pytest.mark.parametrize(
  "inputs, settings, message",
  [
    (np.ones((4, 1, 8, 8)), None, "There are 4 inputs"),
    (np.ones((9, 1, 8, 8)), None, "all the same"),
    (np.full((9, 1, 8, 8), np.nan), None, "not all finite"),
    (np.ones((9, 8, 8)), None, "expected"),
    (np.ones((9, 1, 8, 8)), Calibration(effort=Effort(block_rounds=1)), "no second sweep"),
  ],
)
def test_what_it_cannot_be_calibrated_with(inputs, settings, message):
  w, x = drawn(SHAPES), jnp.ones((1, 1, 8, 8))
  made = program.trace(channels_first, w, x).bcosify()
  with pytest.raises(InputError, match=message):
    program.calibrate(made, inputs, settings)
  with pytest.raises(InputError, match="traced from shapes"):
    program.calibrate(made.bare, inputs)
