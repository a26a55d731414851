"""Key tables of ResNets: torchvision, B-cos v2 and B-cosification."""

from __future__ import annotations

from bcos_jax.ops import BcosOps, StandardOps

from .keys import Keys
from .layouts import CONV, DENSE, DENSE_AS_1X1
from .rules import Rule, Skip, Table

_NORMS = (
  ("bn1", "bn1"),
  ("layer{i}.{j}.bn{k}", "layer{i}_{j}/bn{k}"),
  ("layer{i}.{j}.downsample.1", "layer{i}_{j}/downsample_bn"),
)
_CONVS = (
  ("conv1", "conv1"),
  ("layer{i}.{j}.conv{k}", "layer{i}_{j}/conv{k}"),
  ("layer{i}.{j}.downsample.0", "layer{i}_{j}/downsample_conv"),
)


def _counter(source: str, target: str) -> Skip:
  return Skip(
    f"{source}.num_batches_tracked",
    "counts updates, used by nothing",
    beside=f"batch_stats/{target}/var",
    dtype="int64",
    scalar=True,
  )


def _standard() -> Table:
  rules: list[Rule | Skip] = []
  for source, target in _CONVS:
    rules.append(Rule(f"{source}.weight", f"params/{target}/kernel", CONV))
  for source, target in _NORMS:
    rules += [
      Rule(f"{source}.weight", f"params/{target}/scale"),
      Rule(f"{source}.bias", f"params/{target}/bias"),
      Rule(f"{source}.running_mean", f"batch_stats/{target}/mean"),
      Rule(f"{source}.running_var", f"batch_stats/{target}/var"),
      _counter(source, target),
    ]
  rules += [Rule("fc.weight", "params/head/kernel", DENSE), Rule("fc.bias", "params/head/bias")]
  return tuple(rules)


def _bcos(prefix: str) -> Table:
  rules: list[Rule | Skip] = []
  for source, target in _CONVS:
    rules.append(Rule(f"{prefix}{source}.linear.weight", f"params/{target}/kernel", CONV))
  for source, target in _NORMS:
    source = prefix + source
    rules += [
      Rule(f"{source}.weight", f"params/{target}/scale"),
      Skip(
        f"{source}.running_mean",
        "an uncentred norm subtracts no mean",
        beside=f"batch_stats/{target}/var",
      ),
      Rule(f"{source}.running_var", f"batch_stats/{target}/var"),
      _counter(source, target),
    ]
  rules.append(Rule(f"{prefix}fc.linear.weight", "params/head/kernel", DENSE_AS_1X1))
  return tuple(rules)


STANDARD = _standard()
BCOS_V2 = _bcos("")
BCOSIFICATION = _bcos("model.")

MODULES = (
  ("conv1", "conv1"),
  ("bn1", "bn1"),
  ("layer{i}.{j}", "layer{i}_{j}"),
)
"""What torchvision's and our modules have in common."""

KEYS = (
  Keys("torchvision", StandardOps(), STANDARD, MODULES),
  Keys("bcos_v2", BcosOps.v2(), BCOS_V2),
  Keys("bcosification", BcosOps(), BCOSIFICATION),
  # B-cosification starts from conventional networks, so it has their keys too.
  Keys("bcosification", StandardOps(), STANDARD),
)
