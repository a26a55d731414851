"""Strict reading of Hugging Face configurations; unknown fields are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from bcos_jax.errors import InputError, unknown_name

Config = Mapping[str, Any]
Fields = dict[str, Any]
Setting = str | Callable[[Any, Config], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class ConfigReader:
  """How the `config.json` of one `model_type` describes an architecture of this package.

  Attributes:
    architecture: Name of a variant, whose fields the configuration replaces.
    fields: Attribute -> the field of that name, or a function (value, config) -> fields.
    only: Attribute -> the values with which the network computes what ours does.
    ignored: Attribute -> why it changes nothing here.
  """

  architecture: str
  fields: Mapping[str, Setting]
  only: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
  ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def read(self, config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the architecture.

    Args:
      config: All attributes, with the defaults of transformers filled in.
      given: The attributes that the file itself states.

    Raises:
      InputError: Attributes that are not understood, or values that are not supported: all of
        them in one message.
    """
    _check_counts(config)
    fields: dict[str, Any] = {}
    problems = []
    for name, value in config.items():
      if (setting := self.fields.get(name)) is not None:
        fields |= {setting: value} if isinstance(setting, str) else setting(value, config)
      elif name in self.only:
        if value not in self.only[name]:
          expected = " or ".join(map(repr, self.only[name]))
          problems.append(f"{name} is {value!r}, supported is {expected}")
      elif name in given and name not in self.ignored and name not in COMMON:
        problems.append(f"{name} is {value!r}, which is not understood")
    if problems:
      raise InputError(
        f"The configuration of a {config['model_type']!r} model does not fit: "
        + "; ".join(problems)
        + ".",
        "Convert a supported configuration, or add the field to convert/hf_config.py.",
      )
    return fields


_COUNTS = (
  *("num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"),
  *("num_heads", "num_layers", "n_head", "n_layer", "n_embd", "dim", "n_heads", "n_layers"),
  *("num_key_value_heads", "max_position_embeddings", "patch_size", "image_size", "embed_dim"),
)


def _check_counts(config: Config):
  """Raises InputError for a size that is no size: everything divides by them."""
  for name in _COUNTS:
    value = config.get(name)
    if isinstance(value, int | float) and value < 1:
      raise InputError(
        f"{name} is {value!r} in the configuration, expected at least 1.", "Correct config.json."
      )


COMMON: dict[str, str] = {
  "model_type": "chooses the reader",
  "architectures": "names the class, and with it the keys",
  "transformers_version": "of the writer",
  "torch_dtype": "the tensors tell",
  "dtype": "the tensors tell",
  "_name_or_path": "where it came from",
  "id2label": "labels",
  "label2id": "labels",
  "num_labels": "labels",
  "problem_type": "choice of a loss",
  "initializer_range": "initialisation",
  "initializer_factor": "initialisation",
  "return_dict": "form of the outputs",
  "output_hidden_states": "form of the outputs",
  "output_attentions": "form of the outputs",
  "gradient_checkpointing": "memory while training",
  "use_cache": "speed of generation",
  "attention_probs_dropout_prob": "training only",
  "hidden_dropout_prob": "training only",
  "attention_dropout": "training only",
  "dropout": "training only",
  "drop_path_rate": "training only",
}
"""Attributes of every model type that change nothing in a converted network, and why."""

ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "quick_gelu": "quick_gelu",
  "relu": "relu",
  "silu": "silu",
  "swish": "silu",
}
"""Names of transformers -> names of `functional.GATES`."""

GENERATION: dict[str, str] = dict.fromkeys(
  """add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
  cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
  encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
  forced_bos_token_id forced_eos_token_id is_decoder is_encoder_decoder length_penalty max_length
  min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores
  pad_token_id prefix remove_invalid_values repetition_penalty return_dict_in_generate sep_token_id
  suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
  tie_word_embeddings tokenizer_class top_k top_p torchscript typical_p use_bfloat16""".split(),
  "generation of text; older files state it for every network",
)

BARE = {"num_classes": 0}
"""Fields of a network without classifier."""


def read_side(field: str, value: Any) -> int:
  """Returns a length in pixels, which may be given twice."""
  sides = {value} if isinstance(value, int) else set(value)
  if len(sides) != 1:
    raise InputError(
      f"{field} is {value!r}, expected a square.", "Only square tables and patches are supported."
    )
  return sides.pop()


def side(field: str) -> Setting:
  """Reads a length in pixels into the field of the same name."""
  return lambda value, config: {field: read_side(field, value)}


def activation(value: str, config: Config) -> Fields:
  """The activation of the hidden layers, by its name in transformers."""
  if value not in ACTIVATIONS:
    raise unknown_name("hidden_act", value, ACTIVATIONS)
  return {"activation": ACTIVATIONS[value]}


def by_class(known: Mapping[str | None, Fields | Callable[[Config], Fields]]) -> Setting:
  """Reads `architectures`: the class of the network decides about pooling and head.

  Args:
    known: Name of a class -> its fields, or a function of the configuration that returns them.
  """

  def read(value: list[str] | None, config: Config) -> Fields:
    name = value[0] if value else None
    if name not in known:
      raise unknown_name("class of the network", name, [k for k in known if k])
    fields = known[name]
    return dict(fields if isinstance(fields, dict) else fields(config))

  return read
