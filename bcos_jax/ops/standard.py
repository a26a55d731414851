"""The conventional family."""

from __future__ import annotations

import dataclasses

from .. import functional as F
from .. import layers
from .base import Ops, same_padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandardOps(Ops):
  """The conventional family: linear maps, biases, centred norms, max pooling, pool then head.

  Detached, it explains a conventional network as a dynamic linear map too (its gates, attention
  and layer-norm divisors held fixed); the biases then carry much of the value, as the residual
  of the explanation shows.
  """

  def conv(
    self,
    features,
    kernel_size,
    strides=1,
    *,
    padding=None,
    groups=1,
    dilation=1,
    use_bias=False,
    name,
  ):
    return layers.BcosConv(
      features,
      (kernel_size,) * 2,
      strides,
      same_padding(padding, kernel_size, dilation),
      groups,
      dilation,
      b=1.0,
      use_bias=use_bias,
      name=name,
      **self._dtypes(),
    )

  def dense(self, features, *, gate=None, use_bias=True, name):
    return layers.BcosDense(
      features, b=1.0, gate=gate, use_bias=use_bias, detach=self.detach, name=name, **self._dtypes()
    )

  def classifier(self, features, *, name):
    return self.linear(features, name=name)

  def batch_norm(self, *, name, eps=1e-5):
    return layers.BatchNorm(eps=eps, detach=self.detach, name=name, **self._dtypes())

  def layer_norm(self, *, name, eps=1e-5):
    return layers.LayerNorm(eps=eps, detach=self.detach, name=name, **self._dtypes())

  def group_norm(self, num_groups, *, name, eps=1e-5):
    return layers.GroupNorm(num_groups, eps=eps, detach=self.detach, name=name, **self._dtypes())

  def response_norm(self, *, name, eps=1e-6):
    return layers.ResponseNorm(eps=eps, detach=self.detach, name=name, **self._dtypes())

  def act(self, x, kind, *, last=False):
    return self.gated(x, kind)

  def spatial_pool(self, x, window=3, strides=2, padding=1):
    return self.max_pool(x, window, strides, padding)

  def window_head(self, features, window, *, name):
    conv = self.conv(features, window, padding=0, use_bias=True, name=name)
    return lambda x: conv(layers.adaptive_avg_pool(x, window))

  def average(self, head, x, *, tokens=False):
    return F.widened(head(layers.global_avg_pool(x)))

  def readout(self, head, x, *, tokens=False):
    return self.average(head, x, tokens=tokens)
