"""Small networks on texts with known attributions, for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bcos_jax.attribution.text import TextTask

PAD, CLS, SEP, MASK = range(4)
SPECIAL = (PAD, CLS, SEP)
VOCABULARY, CLASSES, WIDTH = 20, 3, 5


@functools.cache
def texts(lengths=(6, 9, 3), seed=0, length=16):
  """Returns ids [N, length] as [CLS] words [SEP] padding, and mask [N, length]."""
  random = np.random.default_rng(seed)
  ids = np.full((len(lengths), length), PAD, np.int32)
  for row, length in zip(ids, lengths, strict=True):
    row[:length] = [CLS, *random.integers(4, VOCABULARY, length - 2), SEP]
  return ids, ids != PAD


@functools.cache
def linear(seed=0, **fields):
  """Logits that are sums over real tokens of a table's rows; returns (task, table [V, C])."""
  random = np.random.default_rng(seed)
  table = random.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
  table[MASK] = 0
  weights = random.standard_normal((WIDTH, CLASSES)).astype(np.float32)

  def embed(ids, mask):
    return jnp.asarray(table)[ids]

  def forward(embeddings, mask):
    return jnp.einsum("nld,dc,nl->nc", embeddings, weights, mask.astype(jnp.float32))

  task = TextTask(
    predict=lambda ids, mask: forward(embed(ids, mask), mask),
    embed=embed,
    forward=forward,
    lrp=forward,
    mask_id=MASK,
    special_ids=SPECIAL,
    pad_id=PAD,
    **fields,
  )
  return task, table @ weights


@functools.cache
def attending(layers=1, heads=2, seed=0, **fields):
  """A small transformer without norms or positions, with everything that a task can have."""
  random = np.random.default_rng(seed)
  table = random.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
  q, k, v = random.standard_normal((3, layers, heads, WIDTH, WIDTH)).astype(np.float32) / 3
  head = random.standard_normal((WIDTH, CLASSES)).astype(np.float32)

  def run(x, mask):
    seen = []
    for i in range(layers):
      scores = jnp.einsum("nqd,hde,hfe,nkf->nhqk", x, q[i], k[i], x)
      weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e9), axis=-1)
      seen.append(weights)
      x = x + jnp.tanh(jnp.einsum("nhqk,nkd,hde->nqe", weights, x, v[i]))
    return x[:, 0] @ head, jnp.stack(seen, axis=1)

  def embed(ids, mask):
    return jnp.asarray(table)[ids]

  return TextTask(
    predict=lambda ids, mask: run(embed(ids, mask), mask)[0],
    embed=embed,
    forward=lambda x, mask: run(x, mask)[0],
    attentions=lambda ids, mask: run(embed(ids, mask), mask)[1],
    lrp=lambda x, mask: run(x, mask)[0],
    mask_id=MASK,
    special_ids=SPECIAL,
    pad_id=PAD,
    **fields,
  )
