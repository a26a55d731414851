"""Key tables of CLIP's ResNets: OpenAI's own, which open_clip keeps, and B-cosification."""

from __future__ import annotations

import dataclasses

from bcos_jax.inputs import CLIP_MEAN, CLIP_STD, Encoding
from bcos_jax.ops import BcosOps, StandardOps

from ..tables.axes import CONV, DENSE
from ..tables.keys import Keys
from ..tables.rules import Rule, Skip, Table

Entries = list[Rule | Skip]

_STANDARD = StandardOps(encoding=Encoding(CLIP_MEAN, CLIP_STD))
_BCOS = BcosOps(encoding=Encoding(CLIP_MEAN, CLIP_STD, "negated"))

_BLOCK = "layer{i}_{j}"
_ATTENTION = (("q_proj", "query"), ("k_proj", "key"))
_VALUES = (("v_proj", "value"), ("c_proj", "out"))
_TEXT = (
  "text.{rest*}",
  "transformer.{rest*}",
  "ln_final.{rest*}",
  "token_embedding.weight",
  "positional_embedding",
  "text_projection",
  "context_length",
  "vocab_size",
)


def _convs(suffix: str, shortcut: str) -> Entries:
  pairs = (
    ("conv{k}", "conv{k}"),
    ("layer{i}.{j}.conv{k}", f"{_BLOCK}/conv{{k}}"),
    (f"layer{{i}}.{{j}}.downsample.{shortcut}", f"{_BLOCK}/downsample_conv"),
  )
  return [Rule(f"{source}.{suffix}", f"params/{target}/kernel", CONV) for source, target in pairs]


def _norms(shortcut: str) -> tuple[tuple[str, str], ...]:
  return (
    ("bn{k}", "bn{k}"),
    ("layer{i}.{j}.bn{k}", f"{_BLOCK}/bn{{k}}"),
    (f"layer{{i}}.{{j}}.downsample.{shortcut}", f"{_BLOCK}/downsample_bn"),
  )


def _counter(source: str, target: str) -> Skip:
  return Skip(
    f"{source}.num_batches_tracked",
    "counts updates, used by nothing",
    beside=f"batch_stats/{target}/var",
    dtype="int64",
    scalar=True,
  )


def _unused(source: str, reason: str) -> Skip:
  return Skip(source, reason, beside="params/conv1/kernel", optional=True)


def _unpooled_unused(*leaves: str) -> Entries:
  reason = "without pooling no position asks another"
  return [
    _unused(f"attnpool.{source}.{leaf}", reason) for source, _ in _ATTENTION for leaf in leaves
  ]


def _standard(pooled: bool) -> Entries:
  rules = _convs("weight", "0")
  for source, target in _norms("1"):
    rules += [
      Rule(f"{source}.weight", f"params/{target}/scale"),
      Rule(f"{source}.bias", f"params/{target}/bias"),
      Rule(f"{source}.running_mean", f"batch_stats/{target}/mean"),
      Rule(f"{source}.running_var", f"batch_stats/{target}/var"),
      _counter(source, target),
    ]
  for source, target in (*_ATTENTION, *_VALUES) if pooled else _VALUES:
    rules += [
      Rule(f"attnpool.{source}.weight", f"params/attnpool/{target}/kernel", DENSE),
      Rule(f"attnpool.{source}.bias", f"params/attnpool/{target}/bias"),
    ]
  if pooled:
    return [*rules, Rule("attnpool.positional_embedding", "params/attnpool/position")]
  reason = "positions are added for the pooling"
  return [
    *rules,
    *_unpooled_unused("weight", "bias"),
    _unused("attnpool.positional_embedding", reason),
  ]


def _bcosification(pooled: bool) -> Entries:
  rules = _convs("linear.weight", "1")  # the average pooling comes first
  for source, target in _norms("2"):
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
  for source, target in (*_ATTENTION, *_VALUES) if pooled else _VALUES:
    leaf = "linear.weight" if target == "out" else "weight"
    rules.append(Rule(f"attnpool.{source}.{leaf}", f"params/attnpool/{target}/kernel", DENSE))
  return rules if pooled else [*rules, *_unpooled_unused("weight")]


def _below(prefix: str, entries: Entries) -> Table:
  """The entries of a network that hangs under a prefix."""
  return tuple(dataclasses.replace(entry, source=f"{prefix}{entry.source}") for entry in entries)


_BESIDE: Entries = [
  *(_unused(name, "the text tower is a network of its own") for name in _TEXT),
  _unused("input_resolution", "the position table tells"),
  _unused("logit_scale", "weighs images against texts"),
  _unused("logit_bias", "weighs images against texts"),
]

_MODULES = (
  ("conv{k}", "conv{k}"),
  ("bn{k}", "bn{k}"),
  ("layer{i}.{j}", _BLOCK),
  ("attnpool", "attnpool"),
)


def _openai(pooled: bool) -> tuple[Keys, ...]:
  entries, suffix = _standard(pooled), "" if pooled else "_unpooled"
  whole = (*_below("visual.", entries), *_BESIDE)
  below = tuple((f"visual.{source}", target) for source, target in _MODULES)
  return tuple(
    keys
    for layout in ("openai_clip", "open_clip")
    for keys in (
      Keys(layout, _STANDARD, whole, below, f"clip{suffix}"),
      Keys(layout, _STANDARD, tuple(entries), _MODULES, f"visual{suffix}"),
    )
  )


# The first of the tables that write equally many leaves is taken: where nothing is pooled, those
# that know queries and keys as left over.
KEYS = (
  *_openai(pooled=False),
  Keys("bcosification", _BCOS, _below("model.", _bcosification(False)), form="unpooled"),
  *_openai(pooled=True),
  Keys("bcosification", _BCOS, _below("model.", _bcosification(True)), form="pooled"),
)
