"""Pretraining of language models on plain text, from scratch or continued.

  bcos-jax train --config=pretrain_lm:masked_lm --config.data.folder=texts.jsonl \
    --config.init=bundles/bert_mlm --workdir=runs/bcos_bert_mlm
  bcos-jax train --config=pretrain_lm:causal_lm --config.data.folder=texts.jsonl \
    --config.init=bundles/gpt2 --workdir=runs/bcos_gpt2
  bcos-jax train --config=pretrain_lm:llama --config.data.folder=texts.jsonl \
    --config.init=bundles/llama --workdir=runs/bcos_llama

`masked_lm`: 15 % of the tokens are hidden, 512 tokens, 10 epochs of batches of 16, 3e-5, as
published for BERT on Wikipedia. `causal_lm`: next tokens of packed texts, one epoch, one hundredth
of warm-up, B=1.1, as published for GPT-2 on OpenWebText, but AdamW at 5e-5 where that is Adafactor
at 5e-4. `llama` is the same for Llama-3.2-1B, 1024 tokens, batches of 128, with computing in
bfloat16, blocks computed again in the backward pass, and everything that is kept split over all
chips. With the family "standard" a conventional network is pretrained.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common


def get_config() -> ConfigDict:
  """Returns the recipe of masked language models."""
  config = common.language_model()
  config.model = ConfigDict({"name": "bert_base", "num_classes": 0})
  config.data.truncate = True
  _masked_lm(config)
  return config


def _masked_lm(config: ConfigDict) -> None:
  config.objective.name = "masked_lm"
  config.ops = ConfigDict({"family": "bcos_lm", "b": 1.5})
  config.steps, config.optimizer.lr = "10 epochs", 3e-5
  config.optimizer.warmup_steps = "1 epochs"


def _causal_lm(config: ConfigDict) -> None:
  config.objective.name = "causal_lm"
  config.model.name = "gpt2"
  config.ops = ConfigDict({"family": "bcos_lm_decoder"})
  config.data.max_length = 512
  config.steps, config.optimizer.lr = "1 epochs", 5e-5
  config.optimizer.warmup_steps = "0.01 epochs"


def _llama(config: ConfigDict) -> None:
  _causal_lm(config)
  config.model.name = "llama_3_2_1b"
  config.data.update(max_length=1024, batch_size=128)
  config.ops.dtype = "bfloat16"
  config.recompute = True
  config.mesh.update(data=1, fsdp=-1)
  config.layout = (("", "fsdp"),)


VARIANTS = {
  "masked_lm": _masked_lm,
  "causal_lm": _causal_lm,
  "llama": _llama,
  "conventional": common.conventional,
  "runlocal": common.runlocal_texts("reviews"),
}
