"""Key tables: the meaning of a source's checkpoint keys for one architecture."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import linen as nn

from bcos_jax.ops import Ops

from .rules import Table


@dataclasses.dataclass(frozen=True)
class Keys:
  """The keys that one source gives one architecture.

  Attributes:
    source: Whose keys these are: 'torchvision', 'timm', 'huggingface', 'bcos_v2',
      'bcosification', ...
    ops: The family that the source's network belongs to.
    table: The rules.
    modules: Pairs of templates: a module of the PyTorch network, and the Flax module that
      computes the same, in the order of computation. Verification compares their outputs.
    layout: Which of several layouts of this source it is. Bundles remember it, so that converting
      back writes the keys that were read.
    fits: Which networks of the architecture have these keys, where keys depend on its fields.
  """

  source: str
  ops: Ops
  table: Table
  modules: tuple[tuple[str, str], ...] = ()
  layout: str = ""
  fits: Callable[[nn.Module], bool] = lambda model: True
