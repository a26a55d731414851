"""Recurrent layers, as scans over their steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bcos_jax.errors import InputError

from ..operators import operator


@operator("aten.lstm.input")
def _lstm(x, state, weights, biased, layers, dropout, train, bidirectional, batch_first):
  if train and dropout:
    raise InputError(f"Dropout with p={dropout:g} is active.", "Export it in evaluation mode.")
  directions = 1 + bidirectional
  each = 2 + 2 * biased
  if len(weights) != layers * directions * each:
    raise NotImplementedError("LSTMs with projections")
  hidden, cells = state
  x = jnp.swapaxes(x, 0, 1) if batch_first else x
  last_hidden, last_cells = [], []
  for layer in range(layers):
    made = []
    for i in range(layer * directions, (layer + 1) * directions):
      start = (hidden[i], cells[i])
      y, (h, c) = _direction(x, start, weights[i * each : (i + 1) * each], reverse=i % directions)
      made.append(y)
      last_hidden.append(h)
      last_cells.append(c)
    x = jnp.concatenate(made, -1)
  x = jnp.swapaxes(x, 0, 1) if batch_first else x
  return x, jnp.stack(last_hidden), jnp.stack(last_cells)


def _direction(x, start, weights, reverse):
  """Returns the outputs [L, N, H] of one layer in one direction, and its last state."""
  to_gates, recurrent, *biases = weights
  seen = sum(biases, start=x @ to_gates.T)

  def step(state, seen):
    h, c = state
    i, f, g, o = jnp.split(seen + h @ recurrent.T, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  last, outputs = jax.lax.scan(step, start, seen, reverse=bool(reverse))
  return outputs, last
