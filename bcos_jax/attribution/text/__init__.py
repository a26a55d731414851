"""Post-hoc attribution methods for conventional language models.

`attribution.attribute` runs them, as those for images, and each is a function of its own as well:

    scores = text.occlusion(task, ids, mask, targets, batch_size=64, **settings)

    task        A `TextTask`: the network as functions of arrays, and its special tokens.
                `language_task` and `reader_task` make that of a language model.
    ids         Token ids, ints [N, L].
    mask        bool [N, L], False on padding, which is at the end.
    targets     What to explain: None, the predicted class of each text; an int; ints [N] or
                [N, K]; a `Contrast` of target and foil; or a function of the outputs to [N] or
                [N, K], each row by itself.
    batch_size  Texts on the device at once, those with replaced tokens included; bounds memory.
                None takes the method's own, 16 or 64.
    progress    Wraps the loop over batches, e.g. `tqdm.tqdm`.

Results are float32 scores [N, L] with one target per text, else [N, K, L]; exactly 0 on padding.
Larger values support the target; which methods have negative values, and what scores sum to, each
documents. Methods that mask tokens leave special tokens in place and score them 0; with `words`
they mask whole words.

All raise InputError for what cannot be used, and where the task lacks a function that they call.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ...explain.texts import Contrast
from ..calls import attribute, function_of
from ..gradients import InputXGradient, IntegratedGradients
from ..settings import Method, method_named
from .attention import AttentionFlow, AttentionMean, TokenAttentionRollout
from .checked_inputs import logits_of
from .gradients import SequentialIntegratedGradients, TokenAttnLrp, TokenSaliency
from .networks import explain_with, language_task, reader_task
from .perturbation import ShapleySampling, TokenKernelShap, TokenLime, TokenOcclusion
from .task import TextTask

attention_mean = function_of(AttentionMean, "texts")
attention_rollout = function_of(TokenAttentionRollout, "texts")
attention_flow = function_of(AttentionFlow, "texts")
saliency = function_of(TokenSaliency, "texts")
input_x_gradient = function_of(InputXGradient, "texts")
integrated_gradients = function_of(IntegratedGradients, "texts")
sequential_integrated_gradients = function_of(SequentialIntegratedGradients, "texts")
attn_lrp = function_of(TokenAttnLrp, "texts")
occlusion = function_of(TokenOcclusion, "texts")
shapley_sampling = function_of(ShapleySampling, "texts")
kernel_shap = function_of(TokenKernelShap, "texts")
lime = function_of(TokenLime, "texts")

METHODS: dict[str, Callable[..., np.ndarray]] = {
  function.__name__: function
  for function in (
    attention_mean,
    attention_rollout,
    attention_flow,
    saliency,
    input_x_gradient,
    integrated_gradients,
    sequential_integrated_gradients,
    attn_lrp,
    occlusion,
    shapley_sampling,
    kernel_shap,
    lime,
  )
}
"""Every method by name, as a function."""


def names() -> tuple[str, ...]:
  """Returns the names of the methods."""
  return tuple(METHODS)


def method(name: str, **settings: Any) -> Method:
  """Returns a method by its name.

  Raises:
    InputError: An unknown name or setting, with the nearest one.
  """
  return method_named((vars(function)["method"] for function in METHODS.values()), name, settings)


def attribute_with(name: str, task: TextTask, **settings: Any) -> Callable[..., np.ndarray]:
  """Returns a method as a function (ids, mask, targets) -> scores, as the metrics take it.

  Args:
    name: One of `names()`.
    task: The network.
    **settings: Of the method.

  Raises:
    InputError: An unknown name, with the nearest one, or a setting that the method has not.
  """
  chosen = method(name, **settings)

  def explain(ids, mask, targets=None):
    return attribute(task, (ids, mask), chosen, targets)

  return explain


__all__ = [
  "METHODS",
  "AttentionFlow",
  "AttentionMean",
  "Contrast",
  "InputXGradient",
  "IntegratedGradients",
  "SequentialIntegratedGradients",
  "ShapleySampling",
  "TextTask",
  "TokenAttentionRollout",
  "TokenAttnLrp",
  "TokenKernelShap",
  "TokenLime",
  "TokenOcclusion",
  "TokenSaliency",
  "attention_flow",
  "attention_mean",
  "attention_rollout",
  "attn_lrp",
  "attribute_with",
  "explain_with",
  "input_x_gradient",
  "integrated_gradients",
  "kernel_shap",
  "language_task",
  "lime",
  "logits_of",
  "method",
  "names",
  "occlusion",
  "reader_task",
  "saliency",
  "sequential_integrated_gradients",
  "shapley_sampling",
]
