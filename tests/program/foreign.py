"""Networks of others that tests build by name."""

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp

from bcos_jax import program


class Small(nnx.Module):
  """Convolutions, batch norm, dropout and a head, for grey pictures."""

  def __init__(self, classes, rngs):
    self.stem = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(8, classes, rngs=rngs)

  def __call__(self, x):
    return self.head(self.dropout(nnx.relu(self.norm(self.stem(x)))).mean((1, 2)))


@program.factory
def small(seed=0, classes=10):
  return Small(classes, nnx.Rngs(seed))


class FromLinen(nn.Module):
  """Channels first, its variables outside."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(6, (2, 2), name="stem")(jnp.moveaxis(x, 1, -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
    return nn.Dense(4, name="head")(x.mean((1, 2)))


@program.factory
def channels_first():
  network = FromLinen()
  return network, network.init(jax.random.key(0), jnp.ones((1, 3, 8, 8)), train=False)


@program.factory
def normalising():
  """Shifts its input itself."""
  w = jnp.ones((3, 4))
  return lambda w, x: ((x - 0.5) @ w).mean((1, 2)), w
