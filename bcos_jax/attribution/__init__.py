"""Post-hoc attribution methods for conventional networks, to compare B-cos networks with.

A method is a value: its settings. One function runs all of them, on images and on texts,

    maps = attribution.attribute((model, variables), images, attribution.Rise(masks=500), targets)
    scores = attribution.attribute(reader, texts, attribution.text.TokenOcclusion(), targets)

and each is a function of its own as well, with the settings as keywords:

    maps = attribution.rise(model, variables, images, targets, batch_size=64, masks=500)

    model       A network made by `create` or `bcosify`, of any family. It is left as it is, and
                not put into explanation mode; it computes in float32, at the highest precision.
    variables   Its variables.
    images      [N, H, W, colors] in [0, 1]; the network encodes them itself.
    targets     What to explain, as for `bcos_jax.explain`: None, the predicted class of each
                image; an int; ints [N] or [N, K]; a `Contrast` of target and foil; or a function of
                the outputs to [N] or [N, K], each row by itself.
    batch_size  Images on the device at once, masked ones for methods that mask; bounds memory. None
                takes the method's own, 16 or 64.
    progress    Wraps the loop over batches, e.g. `tqdm.tqdm`.

Results are float32 maps [N, H, W] with one target per image, else [N, K, H, W]: what each pixel of
the encoded input, its channels together, means for the target. Larger values support it; which
methods have negative values, and what a map sums to, each documents. The default settings are
those that B-cos papers and ALOE compare with, where they name any.

All raise InputError for images, targets, variables and settings that cannot be used, and where a
method does not apply to a network.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
import numpy as np

from ..explain.texts import Contrast
from .attention import AttentionRollout, AttnLrp, Chefer, LeGrad
from .calls import attribute, function_of
from .effective_map import Dave
from .grad_cam import GradCam
from .gradients import (
  DeepLift,
  GuidedBackprop,
  InputXGradient,
  IntegratedGradients,
  Saliency,
  SmoothGrad,
)
from .perturbation import Occlusion, Rise
from .segments import quickshift, superpixels
from .settings import Method, method_named
from .surrogates import KernelShap, Lime

input_x_gradient = function_of(InputXGradient, "images")
saliency = function_of(Saliency, "images")
integrated_gradients = function_of(IntegratedGradients, "images")
smooth_grad = function_of(SmoothGrad, "images")
guided_backprop = function_of(GuidedBackprop, "images")
deep_lift = function_of(DeepLift, "images")
grad_cam = function_of(GradCam, "images")
occlusion = function_of(Occlusion, "images")
rise = function_of(Rise, "images")
lime = function_of(Lime, "images")
kernel_shap = function_of(KernelShap, "images")
attention_rollout = function_of(AttentionRollout, "images")
chefer = function_of(Chefer, "images")
legrad = function_of(LeGrad, "images")
attn_lrp = function_of(AttnLrp, "images")
dave = function_of(Dave, "images")

METHODS: dict[str, Callable[..., np.ndarray]] = {
  function.__name__: function
  for function in (
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
    dave,
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


def attribute_with(
  name: str, model: nn.Module, variables: Mapping[str, Any], **settings: Any
) -> Callable[..., np.ndarray]:
  """Returns a method as a function (images, targets) -> maps, as the metrics take it.

  Args:
    name: One of `names()`.
    model: See the package.
    variables: Likewise.
    **settings: Of the method.

  Raises:
    InputError: An unknown name, with the nearest one, or a setting that the method has not.
  """
  chosen = method(name, **settings)

  def explain(images, targets=None):
    return attribute((model, variables), images, chosen, targets)

  return explain


from . import text  # noqa: E402  (its functions are made as those above)

__all__ = [
  "METHODS",
  "AttentionRollout",
  "AttnLrp",
  "Chefer",
  "Contrast",
  "Dave",
  "DeepLift",
  "GradCam",
  "GuidedBackprop",
  "InputXGradient",
  "IntegratedGradients",
  "KernelShap",
  "LeGrad",
  "Lime",
  "Method",
  "Occlusion",
  "Rise",
  "Saliency",
  "SmoothGrad",
  "attention_rollout",
  "attn_lrp",
  "attribute",
  "attribute_with",
  "chefer",
  "dave",
  "deep_lift",
  "grad_cam",
  "guided_backprop",
  "input_x_gradient",
  "integrated_gradients",
  "kernel_shap",
  "legrad",
  "lime",
  "method",
  "names",
  "occlusion",
  "quickshift",
  "rise",
  "saliency",
  "smooth_grad",
  "superpixels",
  "text",
]
