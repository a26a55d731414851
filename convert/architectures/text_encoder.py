"""Key tables and configurations of BERT, DistilBERT and RoBERTa: Hugging Face and B-cos LM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any

from bcos_jax.models import TextEncoder
from bcos_jax.ops import BcosOps, StandardOps

from ..readers.hf_config import GENERATION, Config, ConfigReader, Setting, activation, by_class
from ..tables.axes import DENSE
from ..tables.keys import Keys
from ..tables.rules import Rule, Skip, Table

Entries = list[Rule | Skip]
Pairs = tuple[tuple[str, str], ...]

_BLOCK = "encoder_{i}"
_BESIDE = "params/embeddings/word"
_OTHER_HEAD = "a head for another task"


@dataclasses.dataclass(frozen=True)
class Names:
  """What one family calls its modules.

  Attributes:
    prefix: In front of the encoder's keys, in networks with a head.
    layer: Template of a block's name.
    plain: Queries, keys and values: name in the block -> ours.
    dense: The maps of a block that B-cos networks transform, likewise.
    norms: The norms of a block.
    types: Whether there is a table of token types.
    classifier: The two maps of a classifier: the first may be inside the encoder ('{p}...').
    transform: Map, and norm, of the head of masked language models.
    vocabulary: What holds its bias, and the map to the vocabulary where it is not tied.
    others: Templates of keys of other heads, '{p}' being the prefix.
  """

  prefix: str
  layer: str
  plain: Pairs
  dense: Pairs
  norms: Pairs
  types: bool
  classifier: tuple[str, str]
  transform: tuple[str, str]
  vocabulary: tuple[str, str]
  others: tuple[str, ...] = ()


_ATTENTION = ("attn/query", "attn/key", "attn/value")
_DENSE = ("attn/out", "mlp/linear1", "mlp/linear2")
_BERT_BLOCK: dict[str, Any] = {
  "layer": "encoder.layer.{i}",
  "plain": tuple(
    (f"attention.self.{name}", target)
    for name, target in zip(("query", "key", "value"), _ATTENTION, strict=True)
  ),
  "dense": tuple(
    zip(("attention.output.dense", "intermediate.dense", "output.dense"), _DENSE, strict=True)
  ),
  "norms": (("attention.output.LayerNorm", "norm1"), ("output.LayerNorm", "norm2")),
  "types": True,
}

FAMILIES: dict[str, Names] = {
  "bert": Names(
    prefix="bert.",
    **_BERT_BLOCK,
    classifier=("{p}pooler.dense", "classifier"),
    transform=("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    vocabulary=("cls.predictions.bias", "cls.predictions.decoder"),
    others=("cls.seq_relationship.{rest*}",),
  ),
  "roberta": Names(
    prefix="roberta.",
    **_BERT_BLOCK,
    classifier=("classifier.dense", "classifier.out_proj"),
    transform=("lm_head.dense", "lm_head.layer_norm"),
    vocabulary=("lm_head.bias", "lm_head.decoder"),
    others=("{p}pooler.{rest*}",),
  ),
  "distilbert": Names(
    prefix="distilbert.",
    layer="transformer.layer.{i}",
    plain=tuple(
      (f"attention.{name}_lin", target) for name, target in zip("qkv", _ATTENTION, strict=True)
    ),
    dense=tuple(zip(("attention.out_lin", "ffn.lin1", "ffn.lin2"), _DENSE, strict=True)),
    norms=(("sa_layer_norm", "norm1"), ("output_layer_norm", "norm2")),
    types=False,
    classifier=("pre_classifier", "classifier"),
    transform=("vocab_transform", "vocab_layer_norm"),
    vocabulary=("vocab_projector.bias", "vocab_projector"),
  ),
}


@dataclasses.dataclass(frozen=True)
class Form:
  """One way in which a source writes a network.

  Attributes:
    task: 'classify', 'masked_lm' or 'hidden', which has no head.
    prefixed: Whether the encoder's keys have the family's prefix.
    bcos: The names of B-cos LM: maps are inside a module `linear`, and there are no biases.
    norm: Names of scale and bias of a norm; the first BERT files have gamma and beta.
    tied: Whether the map to the vocabulary is the table of tokens.
  """

  task: str
  prefixed: bool = True
  bcos: bool = False
  norm: tuple[str, str] = ("weight", "bias")
  tied: bool = True

  @property
  def name(self) -> str:
    """The plainest one is the form of networks that come from nowhere."""
    parts = [self.task] * (self.task != "classify") + ["bare"] * (not self.prefixed)
    parts += ["gamma"] * (self.norm[0] == "gamma") + ["untied"] * (not self.tied)
    return "_".join(parts)


def _unused(source: str, reason: str) -> Skip:
  return Skip(source, reason, beside=_BESIDE, optional=True)


def _table(names: Names, form: Form) -> Table:
  prefix = names.prefix if form.prefixed else ""

  def plain(source: str, target: str) -> Entries:
    rules = [Rule(f"{source}.weight", f"params/{target}/kernel", DENSE)]
    return [*rules, *([] if form.bcos else [Rule(f"{source}.bias", f"params/{target}/bias")])]

  def dense(source: str, target: str) -> Entries:
    return plain(f"{source}.linear" if form.bcos else source, target)

  def norm(source: str, target: str) -> Entries:
    scale, bias = form.norm
    rules = [Rule(f"{source}.{scale}", f"params/{target}/scale")]
    return [*rules, *([] if form.bcos else [Rule(f"{source}.{bias}", f"params/{target}/bias")])]

  block = f"{prefix}{names.layer}"
  return (
    *_embeddings(names, prefix, norm),
    *(rule for s, t in names.plain for rule in plain(f"{block}.{s}", f"{_BLOCK}/{t}")),
    *(rule for s, t in names.dense for rule in dense(f"{block}.{s}", f"{_BLOCK}/{t}")),
    *(rule for s, t in names.norms for rule in norm(f"{block}.{s}", f"{_BLOCK}/{t}")),
    *_heads(names, form, prefix, dense, norm),
  )


def _embeddings(names: Names, prefix: str, norm: Callable[..., Entries]) -> Iterator[Rule | Skip]:
  tables = ("word", "position", *(("token_type",) if names.types else ()))
  for table in tables:
    yield Rule(f"{prefix}embeddings.{table}_embeddings.weight", f"params/embeddings/{table}")
  yield from norm(f"{prefix}embeddings.LayerNorm", "embeddings/norm")
  for table in ("position", "token_type"):
    yield _unused(f"{prefix}embeddings.{table}_ids", "counts the positions")


def _heads(names, form: Form, prefix: str, dense, norm) -> Iterator[Rule | Skip]:
  """Yields the rules of the head that a form has; what belongs to others is skipped."""
  first, second = (name.format(p=prefix) for name in names.classifier)
  bias, decoder = names.vocabulary
  pooler = names.classifier[0].startswith("{p}")
  if form.task == "classify":
    yield from [*dense(first, "pooler"), *dense(second, "classifier")]
  elif pooler:  # part of the encoder, whatever the head is
    yield _unused(first.removesuffix(".dense") + ".{rest*}", _OTHER_HEAD)
  if form.task == "masked_lm":
    yield from dense(names.transform[0], "transform")
    yield from norm(names.transform[1], "transform_norm")
    # Not tied, transformers leaves the bias outside of the map without use.
    used, other = (bias, f"{decoder}.bias") if form.tied else (f"{decoder}.bias", bias)
    yield Rule(used, "params/vocabulary/bias")
    if used != other:
      yield _unused(other, f"not used: {used} is")
    if form.tied:
      yield _unused(f"{decoder}.weight", "is the table of tokens")
    else:
      yield Rule(f"{decoder}.weight", "params/vocabulary/kernel", DENSE)
  else:
    modules = (*names.transform, decoder)
    for root in dict.fromkeys(module.partition(".")[0] for module in modules):
      yield _unused(f"{root}.{{rest*}}", _OTHER_HEAD)
  for other in names.others:
    if form.task == "masked_lm" or not other.startswith("cls."):
      yield _unused(other.replace("{p}", prefix), _OTHER_HEAD)


def _modules(names: Names, form: Form) -> Pairs:
  """Returns the modules to compare, in the order of computation."""
  prefix = names.prefix if form.prefixed else ""
  inner = (*names.plain, *names.dense, *names.norms)
  ends: Pairs = ()
  if form.task == "classify":
    ends = tuple(
      (source.format(p=prefix), target)
      for source, target in zip(names.classifier, ("pooler", "classifier"), strict=True)
    )
  elif form.task == "masked_lm":
    ends = ((names.transform[1], "transform_norm"),)
  return (
    (f"{prefix}embeddings", "embeddings"),
    *((f"{prefix}{names.layer}.{s}", f"{_BLOCK}/{t}") for s, t in inner),
    *ends,
  )


def _family(model: TextEncoder) -> str:
  if model.positions == "after_padding":
    return "roberta"
  return "bert" if model.token_types else "distilbert"


def _keys(family: str, form: Form) -> Keys:
  names = FAMILIES[family]

  def fits(model: TextEncoder) -> bool:
    task = (
      "masked_lm" if model.task == "masked_lm" else "classify" if model.num_classes else "hidden"
    )
    tied = form.tied == model.tied or task != "masked_lm"
    return _family(model) == family and form.task == task and tied

  return Keys(
    "bcos_lm" if form.bcos else "huggingface",
    BcosOps.lm() if form.bcos else StandardOps(),
    _table(names, form),
    () if form.bcos else _modules(names, form),
    form.name,
    fits,
  )


_GAMMA = ("gamma", "beta")
FORMS: tuple[Form, ...] = (
  Form("classify"),
  Form("classify", prefixed=False),
  Form("classify", norm=_GAMMA),
  Form("masked_lm"),
  Form("masked_lm", tied=False),
  Form("masked_lm", norm=_GAMMA),
  Form("hidden", prefixed=False),
  Form("hidden"),
  Form("classify", bcos=True),
  Form("masked_lm", bcos=True),
)
KEYS = tuple(
  _keys(family, form)
  for family in FAMILIES
  for form in FORMS
  if family == "bert" or form.norm != _GAMMA
)


def _head_dropout(value: float | None, config: Config) -> Mapping[str, Any]:
  return {"head_dropout": config["hidden_dropout_prob"] if value is None else value}


def _transform(value: str, config: Config) -> Mapping[str, Any]:
  return {**activation(value, config), "transform_activation": "gelu"}


def _context(value: int, config: Config) -> Mapping[str, Any]:
  # Rows up to that of padding are not positions of text.
  return {"context_length": value - config["pad_token_id"] - 1}


def _pad(value: int | None, config: Config) -> Mapping[str, Any]:
  return {"pad_token": 0 if value is None else value}


def _by_class(*families: str) -> Setting:
  masked = {"task": "masked_lm", "num_classes": 0}
  known: dict[str | None, Any] = {}
  for name in families:
    known |= {
      f"{name}ForSequenceClassification": {"task": "classify"},
      f"{name}ForMaskedLM": masked,
      f"{name}ForPreTraining": masked,
      f"{name}Model": {"task": "classify", "num_classes": 0},
    }
  return by_class(known)


_ONLY = {
  "is_decoder": (False,),
  "add_cross_attention": (False,),
  "position_embedding_type": ("absolute",),
}
_POOLER = "transformers does not use it"
_IGNORED = {
  **GENERATION,
  "output_past": "form of the outputs",
  **dict.fromkeys(("directionality", "gradient_checkpointing"), _POOLER),
  **dict.fromkeys(
    (
      "pooler_fc_size",
      "pooler_num_attention_heads",
      "pooler_num_fc_layers",
      "pooler_size_per_head",
      "pooler_type",
    ),
    _POOLER,
  ),
}
_FIELDS: dict[str, Setting] = {
  "vocab_size": "vocab_size",
  "hidden_size": "width",
  "num_hidden_layers": "depth",
  "num_attention_heads": "num_heads",
  "intermediate_size": "mlp_dim",
  "max_position_embeddings": "context_length",
  "type_vocab_size": "token_types",
  "hidden_act": activation,
  "layer_norm_eps": "norm_eps",
  "hidden_dropout_prob": "dropout",
  "attention_probs_dropout_prob": "attention_dropout",
  "classifier_dropout": _head_dropout,
  "pad_token_id": _pad,
  "tie_word_embeddings": "tied",
}
_ROBERTA = ConfigReader(
  "roberta_base",
  fields={
    **_FIELDS,
    "hidden_act": _transform,
    "max_position_embeddings": _context,
    "pad_token_id": "pad_token",
    "architectures": _by_class("Roberta", "XLMRoberta", "Camembert"),
  },
  only=_ONLY,
  ignored=_IGNORED,
)
READERS: dict[str, ConfigReader] = {
  "bert": ConfigReader(
    "bert_base",
    fields={**_FIELDS, "architectures": _by_class("Bert")},
    only=_ONLY,
    ignored=_IGNORED,
  ),
  "roberta": _ROBERTA,
  "xlm-roberta": _ROBERTA,
  "camembert": _ROBERTA,
  "distilbert": ConfigReader(
    "distilbert_base",
    fields={
      "vocab_size": "vocab_size",
      "dim": "width",
      "n_layers": "depth",
      "n_heads": "num_heads",
      "hidden_dim": "mlp_dim",
      "max_position_embeddings": "context_length",
      "activation": activation,
      "dropout": "dropout",
      "attention_dropout": "attention_dropout",
      "seq_classif_dropout": "head_dropout",
      "pad_token_id": _pad,
      "tie_word_embeddings": "tied",
      "architectures": _by_class("DistilBert"),
    },
    only=_ONLY,
    ignored={
      **_IGNORED,
      "sinusoidal_pos_embds": "the table of positions is among the weights",
      "qa_dropout": "of another head",
      "tie_weights_": "older name of tie_word_embeddings",
    },
  ),
}
"""Model type -> reader."""
