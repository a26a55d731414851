"""Exact explanations of language models: the contribution of each token to an output.

Contributions are measured at the output of the embedding module, e = word + position + type,
normalised (B-cos LM, arXiv 2502.12992): in explanation mode the network behind it is affine, so

    value = sum_i e_i . g_i + constants,        g = d value / d e

One forward and one backward pass give g for a whole batch; the norm of the embedding module, with
its divisor held, splits each token's share further into those of its word, position and type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ..batches import check_batch_size, overlapped
from ..errors import InputError
from ..layers import sources
from ..models import is_language_model
from ..models.text.language_model import LanguageModel, check_ids
from .length_buckets import chunks, edges_for, padded, resized
from .targets import (
  Target,
  Variables,
  blaming_variables,
  check_range,
  pulled,
  select,
  split_target,
)
from .texts import Contrast, TextExplanation

Array = jax.Array
NORM_BIAS = "norm_bias"


def explain_tokens(
  model: LanguageModel,
  variables: Variables,
  ids: Array | np.ndarray,
  target: Target | Contrast = None,
  batch_size: int | None = None,
  *,
  mask: Array | np.ndarray | None = None,
  types: Array | np.ndarray | None = None,
  at: int | Array | np.ndarray | None = None,
  buckets: Sequence[int] = (),
  keep_weights: bool = True,
) -> TextExplanation:
  """Explains a scalar output for each text of a batch.

  Args:
    model: A language model made by `create` or `bcosify`. Its mode is not touched.
    variables: Its variables.
    ids: Token ids, integers [N, L].
    target: What to explain: None, the predicted class or next token; an int, ints [N] or ints
      [N, K]; a `Contrast`; a function of the logits that returns [N] or [N, K].
    batch_size: Texts per device batch, to bound memory: two batches are there at once. None takes
      all texts together.
    mask: [N, L], zero where there is padding; None for no padding.
    types: Types of the tokens, integers [N, L]; None for zeros.
    at: Places to predict a token at, one or [N]; None takes the last token of each text, of whose
      successor decoders predict. Masked language models need it, classifiers have none.
    buckets: Lengths to which texts are cut or padded, and numbers of texts are rounded up to powers
      of two, so that short texts do not pay for the padding of long ones and few shapes are
      compiled for. Padding must be on the right.
    keep_weights: Whether the explanation has `inputs` and `weights`, D numbers per token; many
      texts do not fit into memory with them. Without, both have no tokens: [N, 0, D].

  Returns:
    The explanation, as NumPy arrays, computed in float32 (float64 if the parameters are) at the
    highest matmul precision.

  Raises:
    InputError: Ids outside the vocabulary, texts that are all padding or too long, a mask, types,
      places or target that do not fit, or variables that are not those of the model.
  """
  ids, mask, types, at = _checked(model, ids, mask, types, at)
  edges = edges_for(ids.shape[1], buckets, model.context_length)
  if model.ops.dtype is not None:
    model = model.clone(ops=dataclasses.replace(model.ops, dtype=None))
  given: dict[str, np.ndarray | None] = {"ids": ids, "mask": mask, "types": types}
  texts = _padded(model, given, edges[-1])
  pieces = chunks(mask, edges, check_batch_size(batch_size), bool(len(buckets)))
  begun = _begun(model, variables, texts, at, target, keep_weights, pieces)
  done = [(_cut(part, len(kept), ids.shape[1]), kept) for part, kept in overlapped(begun)]
  order = np.argsort(np.concatenate([kept for _, kept in done]))
  ex = jax.tree.map(lambda *p: np.concatenate(p)[order], *(part for part, _ in done))
  return dataclasses.replace(ex, ids=ids, mask=mask)


def dynamic_tokens(
  model: LanguageModel,
  variables: Variables,
  ids: Array,
  target: Target = None,
  *,
  mask: Array | None = None,
  types: Array | None = None,
  at: Array | None = None,
) -> TextExplanation:
  """The pure function behind `explain_tokens`: no checks, any transformation of JAX applies to it.

  Arguments and result as there, but JAX arrays; use it inside a jitted step or a loss.
  """
  function, classes = split_target(target, ids.shape[0], "texts")
  detached = model.clone(ops=model.ops.detached())
  mask = jnp.ones(ids.shape, jnp.int32) if mask is None else mask
  parts: Any = detached.apply(variables, ids, mask=mask, types=types, method="parts")
  parts = {
    name: jnp.broadcast_to(part, (*ids.shape, part.shape[-1])) for name, part in parts.items()
  }

  def combine(total) -> Array:
    inputs: Any = detached.apply(variables, total, method="combine")
    return inputs

  inputs, to_parts = jax.vjp(combine, sum(parts.values()))

  def forward(inputs, gains, **options):
    return detached.apply(
      {**variables, **gains}, ids, mask=mask, embeddings=inputs, at=at, **options
    )

  shapes = jax.eval_shape(lambda: forward(inputs, {}, mutable=[sources.COLLECTION])[1])
  gains = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)

  def selected(inputs, gains):
    return select(forward(inputs, gains), ids.shape[0], function, classes)

  value, pullback, (logits, chosen) = jax.vjp(selected, inputs, gains, has_aux=True)
  biased = "bias" in variables["params"]["embeddings"].get("norm", {})
  found = pulled(value, lambda ct: _shares(pullback(ct), inputs, parts, to_parts, biased))
  residual = value - jnp.sum(found["contributions"], axis=-1)
  residuals = found.pop("residuals")
  residuals["unexplained"] = residual - sum(residuals.values())
  return TextExplanation(
    ids=ids,
    mask=mask,
    logits=logits,
    value=value,
    target=chosen,
    at=at,
    inputs=inputs,
    residual=residual,
    residuals=residuals,
    conventional=model.ops.conventional,
    **found,
  )


def _shares(
  back: Any, inputs: Array, parts: dict[str, Array], to_parts: Callable, biased: bool
) -> dict[str, Any]:
  """Returns weights, contributions, their parts and the residuals of one backward pass."""
  weights, gains = back
  contributions = jnp.sum(inputs * weights, axis=-1)
  (before,) = to_parts(weights)
  shares = {name: jnp.sum(part * before, axis=-1) for name, part in parts.items()}
  if biased:
    shares[NORM_BIAS] = contributions - sum(shares.values())
  return {
    "weights": weights,
    "contributions": contributions,
    "parts": shares,
    "residuals": _by_source(gains),
  }


def _by_source(shares: Variables) -> dict[str, Array]:
  totals: dict[str, Array] = {}
  flat: dict[Any, Any] = traverse_util.flatten_dict(shares)
  for path, share in flat.items():
    totals[path[-1]] = totals.get(path[-1], 0.0) + share
  return totals


@jax.jit(static_argnums=(0, 5))
def _explain_jit(model, function, variables, given, classes, keep_weights):
  target = classes if function is None else function
  ids = given["ids"]
  rest = {name: value for name, value in given.items() if name != "ids"}
  ex = dynamic_tokens(model, variables, ids, target, **rest)
  if keep_weights:
    return ex
  return dataclasses.replace(ex, inputs=ex.inputs[:, :0], weights=ex.weights[..., :0, :])


def _begun(
  model: LanguageModel,
  variables: Variables,
  texts: dict[str, np.ndarray | None],
  at: np.ndarray | None,
  target: Target | Contrast,
  keep_weights: bool,
  pieces: Iterable[tuple[int, np.ndarray, np.ndarray]],
) -> Iterator[tuple[TextExplanation, np.ndarray]]:
  """Yields the explanations of each batch, still on the device, and which texts it explains."""
  assert texts["ids"] is not None, "only types may be missing"
  function, classes = _split(target, len(texts["ids"]))
  checked = False
  for length, kept, chosen in pieces:
    cut = {name: None if v is None else v[chosen, :length] for name, v in texts.items()}
    cut["at"] = None if at is None else at[chosen]
    asked = (_rows(function, chosen), None if classes is None else classes[chosen])
    arguments = (model, asked[0], variables, cut, asked[1], keep_weights)
    with jax.default_matmul_precision("highest"), blaming_variables(model, variables):
      if not checked:  # What is traced here is used again below.
        _check_target(target, classes, _explain_jit.eval_shape(*arguments).logits)
        checked = True
      part = _explain_jit(*arguments)
    yield part, kept


def _padded(
  model: LanguageModel, texts: dict[str, np.ndarray | None], length: int
) -> dict[str, np.ndarray | None]:
  """Returns the inputs [N, L] of a network with padding up to a length."""
  fills = {"ids": max(getattr(model, "pad_token", 0), 0)}
  return {
    name: None if array is None else padded(array, length, fills.get(name, 0))
    for name, array in texts.items()
  }


def _cut(ex: TextExplanation, count: int, length: int) -> TextExplanation:
  """Returns the first explanations of a batch, of a length."""
  return resized(jax.tree.map(lambda leaf: leaf[:count], ex), length)


def _contrast(target: Array | None, foil: Array | None, logits: Array) -> Array:
  """Returns logit(target) - logit(foil) of each text, [N]."""

  def of(classes):
    return jnp.take_along_axis(logits, classes[:, None], axis=-1)[:, 0]

  first = jnp.max(logits, axis=-1) if target is None else of(target)
  return first - (jnp.mean(logits, axis=-1) if foil is None else of(foil))


def _split(target: Target | Contrast, count: int) -> tuple[Any, np.ndarray | None]:
  """As `split_target`; a contrast becomes a function whose classes are [count] each."""
  if not isinstance(target, Contrast):
    function, classes = split_target(target, count, "texts")
    if function is not None and not isinstance(function, jax.tree_util.Partial):
      function = jax.tree_util.Partial(function)
    return function, None if classes is None else np.asarray(classes)
  sides = []
  for side in (target.target, target.foil):
    classes = split_target(side, count, "texts")[1]
    if np.ndim(classes) > 1:
      raise InputError(
        f"A contrast has classes of shape {np.shape(classes)}, expected ({count},).",
        "Give one target and one foil per text.",
      )
    sides.append(None if classes is None else np.asarray(classes))
  return dataclasses.replace(target, target=sides[0], foil=sides[1]), None


def _rows(function: Any, rows: np.ndarray) -> Any:
  """Returns the target function for some of the texts."""
  if not isinstance(function, Contrast):
    return function
  sides = (None if s is None else np.asarray(s)[rows] for s in (function.target, function.foil))
  return jax.tree_util.Partial(_contrast, *sides)


def _check_target(target: Any, classes: np.ndarray | None, logits: Any):
  for asked in (target.target, target.foil) if isinstance(target, Contrast) else (classes,):
    if asked is not None:
      check_range(np.asarray(asked), logits)


def _checked(
  model: LanguageModel, ids, mask, types, at
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
  """Returns the inputs as NumPy arrays that fit the network."""
  if not is_language_model(model):
    raise InputError(
      f"A {type(model).__name__} is not a language model.", "Use explain for other networks."
    )
  ids = np.asarray(ids)
  if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
    raise InputError(
      f"The ids are {ids.dtype} of shape {ids.shape}, expected integers [N, L].",
      "Pass the output of the checkpoint's tokenizer.",
    )
  if ids.shape[1] > model.context_length:
    raise InputError(
      f"The texts have {ids.shape[1]} tokens, expected at most {model.context_length}.",
      "Truncate them.",
    )
  check_ids(ids, model.vocab_size)
  mask = np.ones(ids.shape, np.int32) if mask is None else np.asarray(mask)
  for name, array in (("mask", mask), ("types", types)):
    if array is not None and np.shape(array) != ids.shape:
      raise InputError(
        f"{name} has shape {np.shape(array)} for ids of shape {ids.shape}.",
        "Give one number per token.",
      )
  mask = (mask != 0).astype(np.int32)
  if not mask.any(axis=1).all():
    raise InputError(
      f"Text {int(np.argmin(mask.any(axis=1)))} contains only padding.", "Remove empty texts."
    )
  if model.reads_first and not mask[:, 0].all():
    index = int(np.argmin(mask[:, 0]))
    raise InputError(
      f"Text {index} has padding on the left: its first token, which classifiers read, is padding.",
      "Pad on the right.",
    )
  return ids.astype(np.int32), mask, _checked_types(model, types), _places(model, ids, mask, at)


def _checked_types(model: LanguageModel, types) -> np.ndarray | None:
  if types is None:
    return None
  types, rows = np.asarray(types), getattr(model, "token_types", 0)
  if not rows:
    raise InputError("The network has no token types.", "Omit types.")
  if types.min() < 0 or types.max() >= rows:
    raise InputError(
      f"The types span {types.min()} to {types.max()}, expected 0 to {rows - 1}.",
      "Give 0 for the first text, 1 for the second.",
    )
  return types.astype(np.int32)


def _places(model: LanguageModel, ids, mask, at) -> np.ndarray | None:
  """Returns where tokens are predicted, [N]; None for classifiers."""
  if not model.predicts_tokens:
    if at is not None:
      raise InputError(
        "at is for language modelling heads, the network is a classifier.", "Omit at."
      )
    return None
  if at is None:
    if model.predicts == "next_tokens":
      return (mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)).astype(np.int32)
    raise InputError(
      "A masked language model needs the position of a mask token, and none is given.",
      "Pass at=, the position of the mask token of each text.",
    )
  at = np.asarray(at)
  if at.ndim == 0:
    at = at.reshape(1).repeat(len(ids))
  fits = at.shape == (len(ids),) and np.issubdtype(at.dtype, np.integer)
  if not fits or at.min() < 0 or at.max() >= ids.shape[1] or not _taken(mask, at).all():
    raise InputError(
      f"at is {at.tolist()!r:.60}, expected positions of tokens, one for each of {len(ids)} texts.",
      f"Count positions from 0 to {ids.shape[1] - 1}, without padding.",
    )
  return at.astype(np.int32)


def _taken(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
  return np.take_along_axis(mask, at[:, None], axis=1)[:, 0]
