"""Post-hoc attribution methods for conventional language models.

All methods have one signature,

    scores = texts.occlusion(task, ids, mask, targets, batch_size=64, **settings)

    task        A `TextTask`: the network as functions of arrays, and its special tokens.
                `language_task` and `reader_task` make that of a language model.
    ids         Token ids, ints [N, L].
    mask        bool [N, L], False on padding, which is at the end.
    targets     What to explain: None, the predicted class of each text; an int; ints [N] or
                [N, K]; a `Contrast` of target and foil; or a function of the outputs to [N] or
                [N, K], each row by itself.
    batch_size  Texts on the device at once, those with replaced tokens included; bounds memory.
    progress    Wraps the loop over batches, e.g. `tqdm.tqdm`.

and return float32 scores [N, L] with one target per text, else [N, K, L]; exactly 0 on padding.
Larger values support the target; which methods have negative values, and what scores sum to, each
documents. Methods that mask tokens leave special tokens in place and score them 0; with `words`
they mask whole words.

All raise InputError for what cannot be used, and where the task lacks a function that they call.
"""

from collections.abc import Callable
from typing import Any

from ...text.explanation import Contrast
from ..task import checked_method
from .attention import attention_flow, attention_mean, attention_rollout
from .gradients import (
  attn_lrp,
  input_x_gradient,
  integrated_gradients,
  saliency,
  sequential_integrated_gradients,
)
from .networks import explain_with, language_task, reader_task
from .perturbation import kernel_shap, lime, occlusion, shapley_sampling
from .running import logits_of
from .task import TextTask

METHODS: dict[str, Callable[..., Any]] = {
  method.__name__: method
  for method in (
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
"""Every method by name."""


def names() -> tuple[str, ...]:
  """Returns the names of the methods."""
  return tuple(METHODS)


def attribute_with(name: str, task: TextTask, **settings: Any) -> Callable[..., Any]:
  """Returns a method as a function (ids, mask, targets) -> scores, as the metrics take it.

  Args:
    name: One of `names()`.
    task: The network.
    **settings: Of the method.

  Raises:
    InputError: An unknown name, with the nearest one, or a setting that the method has not.
  """
  method = checked_method(METHODS, name, settings)

  def attribute(ids, mask, targets=None):
    return method(task, ids, mask, targets, **settings)

  return attribute


__all__ = [
  "METHODS",
  "Contrast",
  "TextTask",
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
  "names",
  "occlusion",
  "reader_task",
  "saliency",
  "sequential_integrated_gradients",
  "shapley_sampling",
]
