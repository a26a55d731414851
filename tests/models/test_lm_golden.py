"""B-cos language models against the authors' code, in float64 and float32."""

import itertools
import json

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, convert

from ..common import GOLDEN, rel
from ..golden import rules

CASES = json.loads((GOLDEN / "lm.json").read_text(encoding="utf-8"))
# Of the norm. Rounding gives 2e-15 and 1e-6, a little more or less under other compiler settings.
LIMITS = {"float64": 2e-14, "float32": 4e-6}
USER_COMPILER = (("bert_b1.5", "float32"), ("distilbert_b2.0", "float64"))


def _fields(family, config):
  """The fields that the configuration of transformers stands for."""
  names = {"hidden_size": "width", "dim": "width", "vocab_size": "vocab_size"}
  names |= {"num_hidden_layers": "depth", "n_layers": "depth", "num_attention_heads": "num_heads"}
  names |= {"n_heads": "num_heads", "intermediate_size": "mlp_dim", "hidden_dim": "mlp_dim"}
  names |= {"type_vocab_size": "token_types", "pad_token_id": "pad_token"}
  fields = {names[key]: value for key, value in config.items() if key in names}
  padding = config.get("pad_token_id", 0) + 1 if family == "roberta" else 0
  # RobertaConfig's own default; published RoBERTa has 1e-5.
  return {
    **fields,
    "norm_eps": 1e-12,
    "context_length": config["max_position_embeddings"] - padding,
  }


def _bundle(case, dtype):
  family = case["family"]
  state = {
    key: rules.weight(case["key_prefix_in_rule"] + key, tuple(shape)).astype(dtype)
    for key, shape in case["keys"].items()
  }
  bundle = convert.from_state_dict(
    state,
    f"{family}_base",
    "bcos_lm",
    ops=BcosOps.lm(b=case["b"], param_dtype=dtype),
    fields=_fields(family, case["config"]),
  )
  written = convert.to_state_dict(bundle)
  assert written.keys() == state.keys()
  assert all(np.array_equal(written[key], tensor) for key, tensor in state.items())
  return bundle


@pytest.mark.parametrize(
  "name, dtype",
  [
    pytest.param(*case, marks=pytest.mark.user_compiler if case in USER_COMPILER else ())
    for case in itertools.product(CASES, LIMITS)
  ],
)
def test_outputs_and_explanations(name, dtype):
  case, data = CASES[name], np.load(GOLDEN / "lm.npz")
  expected = {key: data[f"{name}/{key}"] for key in ("logits", "embeddings", "contributions")}
  ids, mask = data[f"{name}/input_ids"].astype(np.int32), data[f"{name}/attention_mask"]
  with jax.enable_x64(dtype == "float64"):
    bundle = _bundle(case, dtype)
    ex = bcos_jax.explain(bundle.model, bundle.variables, ids, case["target"], mask=mask)
  assert ex.logits.dtype == dtype
  limit = LIMITS[dtype]
  found = {"logits": ex.logits, "embeddings": ex.inputs, "contributions": ex.contributions}
  for key, value in found.items():
    assert rel(value, expected[key]) <= limit, key
  # Everything is in the tokens.
  assert np.abs(ex.residual).max() <= limit * np.abs(ex.value).max()
  assert rel(sum(ex.parts.values()), ex.contributions) <= limit
  assert (ex.contributions[mask == 0] == 0).all()
  # What the published code stores is the mean over channels.
  assert rel(ex.mean_contributions * ex.inputs.shape[-1], expected["contributions"]) <= limit
