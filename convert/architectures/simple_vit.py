"""Key tables of SimpleViT and ViTc: B-cos v2 (both families) and B-cosification.

Published stems number conv, norm and activation as children 3s, 3s+1 and 3s+2 of one sequence, so
each stage of the stem has rules of its own.
"""

from __future__ import annotations

from bcos_jax.ops import BcosOps, StandardOps

from ..tables.axes import AS_IS, CONV, DENSE, Axes
from ..tables.keys import Keys
from ..tables.rules import Rule, Table

_STEM_STAGES = 6
_BLOCK = "transformer.encoder_{i}"


def _table(prefix: str, infix: str, bias: bool) -> Table:
  rules: list[Rule] = []

  def add(source: str, target: str, leaf: str, axes: Axes, has_bias: bool):
    rules.append(Rule(f"{prefix}{source}.weight", f"params/{target}/{leaf}", axes))
    if has_bias:
      rules.append(Rule(f"{prefix}{source}.bias", f"params/{target}/bias"))

  for stage in range(_STEM_STAGES):
    stem = "to_patch_embedding.conv_stem"
    add(f"{stem}.{3 * stage}{infix}", f"stem{stage}_conv", "kernel", CONV, bias)
    add(f"{stem}.{3 * stage + 1}", f"stem{stage}_norm", "scale", AS_IS, bias)
  add(f"to_patch_embedding.linear{infix}", "patch_embedding", "kernel", DENSE, bias)
  add(f"{_BLOCK}.attn.norm", "encoder_{i}/attn_norm", "scale", AS_IS, bias)
  add(f"{_BLOCK}.attn.to_qkv", "encoder_{i}/attn/qkv", "kernel", DENSE, False)
  add(f"{_BLOCK}.attn.to_out{infix}", "encoder_{i}/attn/out", "kernel", DENSE, False)
  add(f"{_BLOCK}.ff.net.norm", "encoder_{i}/ff_norm", "scale", AS_IS, bias)
  for k in (1, 2):
    add(f"{_BLOCK}.ff.net.linear{k}{infix}", f"encoder_{{i}}/ff_linear{k}", "kernel", DENSE, bias)
  add("linear_head.norm", "head_norm", "scale", AS_IS, bias)
  add(f"linear_head.linear{infix}", "head", "kernel", DENSE, bias)
  return tuple(rules)


STANDARD = _table("", "", bias=True)
BCOS_V2 = _table("0.", ".linear", bias=False)
BCOSIFICATION = _table("model.", ".linear", bias=False)

KEYS = (
  Keys("bcos_v2", BcosOps.v2(), BCOS_V2),
  Keys("bcos_v2", StandardOps(), STANDARD),
  Keys("bcosification", BcosOps(), BCOSIFICATION),
  Keys("bcosification", StandardOps(), STANDARD),
)
