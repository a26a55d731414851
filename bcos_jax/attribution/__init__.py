"""Post-hoc attribution methods for conventional networks, to compare B-cos networks with.

All methods have one signature,

    maps = attribution.rise(model, variables, images, targets, batch_size=64, **settings)

    model       A network made by `create` or `bcosify`, of any family. It is left as it is, and
                not put into explanation mode; it computes in float32, at the highest precision.
    variables   Its variables.
    images      [N, H, W, colors] in [0, 1]; the network encodes them itself.
    targets     What to explain, as for `bcos_jax.explain`: None, the predicted class of each
                image; an int; ints [N] or [N, K]; or a function of the outputs to [N] or [N, K],
                each row by itself.
    batch_size  Images on the device at once, masked ones for methods that mask; bounds memory.
    progress    Wraps the loop over batches, e.g. `tqdm.tqdm`.

and return float32 maps [N, H, W] with one target per image, else [N, K, H, W]: what each pixel of
the encoded input, its channels together, means for the target. Larger values support it; which
methods have negative values, and what a map sums to, each documents. The default settings are
those that B-cos papers and ALOE compare with, where they name any.

All raise InputError for images, targets, variables and settings that cannot be used, and where a
method does not apply to a network.
"""

from collections.abc import Callable
from typing import Any

from .attention import attention_rollout, attn_lrp, chefer, legrad
from .grad_cam import grad_cam
from .gradients import (
  deep_lift,
  guided_backprop,
  input_x_gradient,
  integrated_gradients,
  saliency,
  smooth_grad,
)
from .perturbation import occlusion, rise
from .segments import quickshift
from .surrogates import kernel_shap, lime
from .task import checked_method

METHODS: dict[str, Callable[..., Any]] = {
  method.__name__: method
  for method in (
    input_x_gradient,
    saliency,
    integrated_gradients,
    smooth_grad,
    guided_backprop,
    deep_lift,
    grad_cam,
    occlusion,
    rise,
    lime,
    kernel_shap,
    attention_rollout,
    chefer,
    legrad,
    attn_lrp,
  )
}
"""Every method by name."""


def names() -> tuple[str, ...]:
  """Returns the names of the methods."""
  return tuple(METHODS)


def attribute_with(name: str, model, variables, **settings: Any) -> Callable[..., Any]:
  """Returns a method as a function (images, targets) -> maps, as the metrics take it.

  Args:
    name: One of `names()`.
    model: See the package.
    variables: Likewise.
    **settings: Of the method.

  Raises:
    InputError: An unknown name, with the nearest one, or a setting that the method has not.
  """
  method = checked_method(METHODS, name, settings)

  def attribute(images, targets=None):
    return method(model, variables, images, targets, **settings)

  return attribute


__all__ = [
  "METHODS",
  "attention_rollout",
  "attn_lrp",
  "attribute_with",
  "chefer",
  "deep_lift",
  "grad_cam",
  "guided_backprop",
  "input_x_gradient",
  "integrated_gradients",
  "kernel_shap",
  "legrad",
  "lime",
  "names",
  "occlusion",
  "quickshift",
  "rise",
  "saliency",
  "smooth_grad",
]
