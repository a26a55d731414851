"""Hugging Face configurations, read strictly: what changes the computation is never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from bcos_jax.errors import InputError

Config = Mapping[str, Any]
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
        "Convert a supported configuration, or teach convert/hf_config.py what it means.",
      )
    return fields


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
