"""Rules: which tensors of a source are which leaves of a Flax tree, in both directions.

A table pairs name templates, `"layer{i}.{j}.conv{k}.weight"` with
`"params/layer{i}_{j}/conv{k}/kernel"`; see `templates`. In the source of a `Skip`, `{field*}`
stands for anything: a whole part of the source's network that is not wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools

import numpy as np

from .axes import AS_IS, Axes, contiguous
from .templates import FIELD, parse, skeleton


@dataclasses.dataclass(frozen=True)
class Rule:
  """Tensors of the source are leaves of the Flax tree: one each, or several fused.

  Several sources are the parts of one matrix, such as queries, keys and values, in equal shares
  along one of PyTorch's axes, the first if not said; several targets share that axis as their own
  shapes say.

  Attributes:
    source: Template of the source key, or of each part. None is a part that the source does not
      have and that counts as zero (a bias of keys, which attention cannot see).
    target: Template of the Flax path, `collection/module/.../leaf`, or of each part.
    axes: How the axes are ordered.
    along: Axis of the source tensors along which parts follow each other.
  """

  source: str | tuple[str | None, ...]
  target: str | tuple[str, ...]
  axes: Axes = AS_IS
  along: int = 0

  @property
  def sources(self) -> tuple[str | None, ...]:
    """The source templates, one per part."""
    return (self.source,) if isinstance(self.source, str) else self.source

  @property
  def targets(self) -> tuple[str, ...]:
    """The target templates, one per part."""
    return (self.target,) if isinstance(self.target, str) else self.target

  def source_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape of each source for targets of these shapes."""
    laid = [self.axes.to_torch(np.broadcast_to(np.float32(0), s)).shape for s in shapes]
    if len(self.sources) == len(laid) == 1:
      return laid[0]
    whole = list(laid[0])
    whole[self.along] = sum(shape[self.along] for shape in laid) // len(self.sources)
    return tuple(whole)

  def to_flax(
    self, parts: Sequence[np.ndarray | None], shapes: Sequence[tuple[int, ...]]
  ) -> list[np.ndarray]:
    """Returns the leaves, of the given shapes, that the source tensors make."""
    if len(parts) == len(shapes) == 1:
      return [contiguous(self.axes.to_flax(np.asarray(parts[0])))]
    like = np.asarray(next(part for part in parts if part is not None))
    whole = np.concatenate(
      [np.zeros_like(like) if part is None else np.asarray(part) for part in parts],
      axis=self.along,
    )
    laid = [self.axes.to_torch(np.broadcast_to(np.float32(0), s)).shape for s in shapes]
    rows = [shape[self.along] for shape in laid]
    pieces = np.split(whole, np.cumsum(rows)[:-1], axis=self.along)
    return [contiguous(self.axes.to_flax(piece)) for piece in pieces]

  def to_torch(self, leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the source tensors that make these leaves; the inverse of `to_flax`."""
    laid = [self.axes.to_torch(leaf) for leaf in leaves]
    if len(self.sources) == len(laid) == 1:
      return [contiguous(laid[0])]
    parts = np.split(np.concatenate(laid, axis=self.along), len(self.sources), axis=self.along)
    return [contiguous(part) for part in parts]


@dataclasses.dataclass(frozen=True)
class Skip:
  """A tensor of the source that the Flax network has no use for.

  Attributes:
    source: Template of the source key.
    reason: Why it is not needed.
    beside: Template of the Flax path whose presence calls for this key when converting back.
    fill: The value to write for a network that did not come from this source.
    dtype: Its dtype.
    scalar: Whether it has shape (); otherwise it has the shape of `beside`.
    optional: Some checkpoints lack it, and its shape may be any: written back only where it came
      along.
  """

  source: str
  reason: str
  beside: str
  fill: float = 0.0
  dtype: str = "float32"
  scalar: bool = False
  optional: bool = False

  def default(self, sibling: np.ndarray) -> np.ndarray:
    """Returns the value that a fresh network would have."""
    return np.full(() if self.scalar else sibling.shape, self.fill, self.dtype)


Table = tuple[Rule | Skip, ...]


def key_templates(entry: Rule | Skip) -> list[str]:
  """Returns the templates of the source keys that an entry of a table accounts for."""
  if isinstance(entry, Skip):
    return [entry.source]
  return [template for template in entry.sources if template is not None]


Match = tuple[Rule | Skip, str, dict[str, str]]


@functools.lru_cache(maxsize=64)
def matcher(table: Table) -> Callable[[str], list[Match]]:
  """Returns a function from a source key to all entries that account for it.

  Each comes with its template and the numbers in it. Only templates that equal the key but for
  numbers are tried: networks have hundreds of keys, and many tables may be asked about them.
  """
  byskeleton: dict[str, list[tuple[Rule | Skip, str]]] = {}
  open_ended = []
  for entry in table:
    for template in key_templates(entry):
      if "*}" in template:
        open_ended.append((entry, template))
      else:
        byskeleton.setdefault(skeleton(FIELD.sub("0", template)), []).append((entry, template))

  def matches(key: str) -> list[Match]:
    return [
      (entry, template, numbers)
      for entry, template in (*byskeleton.get(skeleton(key), ()), *open_ended)
      if (numbers := parse(template, key)) is not None
    ]

  return matches
