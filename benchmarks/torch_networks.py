"""PyTorch networks, written from the papers: conventional, and B-cos as in its equations.

`peers.py` times them and the tests compare with them. Each formula has the form that PyTorch
computes fastest: patch norms by pooled squares, one factor per norm, what explanation mode holds
fixed without a graph. Memory formats are the caller's choice: `network.to(memory_format=...)`.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math

import torch
from torch import Tensor, nn
import torch.nn.functional as TF


class Dynamic(nn.Module):
  """A layer with a weight that depends on its input, and is a constant in explanation mode."""

  explaining = False

  def held(self, make: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """Returns make(*args), without a graph in explanation mode."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not self.explaining):
      return make(*args)


def bcos_scale(y: Tensor, norm: Tensor, b: float) -> Tensor:
  """|y / norm|^(b-1), with the epsilon of the published formula for b other than 2."""
  return y.abs() / norm if b == 2 else ((y / norm).abs() + 1e-6) ** (b - 1)


class BcosConv2d(Dynamic):
  """|cos|^(b-1) * conv(x); the norm is that of each patch, of each group by itself."""

  def __init__(
    self, inputs, outputs, kernel, stride=1, padding=0, groups=1, b=2.0, unit_norm=False
  ):
    super().__init__()
    self.linear = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    self.b, self.unit_norm = b, unit_norm

  def forward(self, x):
    conv, weight = self.linear, self.linear.weight
    if self.unit_norm:
      weight = weight / weight.flatten(1).norm(dim=1)[:, None, None, None]
    y = TF.conv2d(x, weight, None, conv.stride, conv.padding, groups=conv.groups)
    return self.held(self.scale, x, y) * y

  def scale(self, x, y):
    conv, channels = self.linear, x.shape[1]
    if conv.kernel_size == (1, 1):
      x = x[:, :, :: conv.stride[0], :: conv.stride[1]]
    squares = x.square()
    if conv.groups < channels:
      squares = squares.unflatten(1, (conv.groups, -1)).sum(2)
    if conv.kernel_size != (1, 1):
      window = (conv.kernel_size, conv.stride, conv.padding)
      squares = TF.avg_pool2d(squares, *window, divisor_override=1)
    norm = (squares + 1e-6).sqrt()
    if conv.groups > 1:
      norm = norm.repeat_interleave(y.shape[1] // conv.groups, 1)
    return bcos_scale(y, norm, self.b)


class BcosLinear(Dynamic):
  """|cos|^(b-1) * linear(x), with the epsilon added to the norm."""

  def __init__(self, inputs, outputs, b=2.0, unit_norm=False):
    super().__init__()
    self.linear = nn.Linear(inputs, outputs, bias=False)
    self.b, self.unit_norm = b, unit_norm

  def forward(self, x):
    weight = self.linear.weight
    if self.unit_norm:
      weight = weight / weight.norm(dim=1, keepdim=True)
    y = TF.linear(x, weight)
    return self.held(self.scale, x, y) * y

  def scale(self, x, y):
    return bcos_scale(y, x.norm(dim=-1, keepdim=True) + 1e-12, self.b)


class BatchNormUncentered2d(nn.BatchNorm2d):
  """Divides by the deviation, subtracts nothing; the running variance stays biased."""

  def __init__(self, features):
    super().__init__(features)
    self.bias = None

  def forward(self, x):
    var = self.running_var
    if self.training:
      var = x.var(dim=(0, 2, 3), unbiased=False)
      self.running_var.mul_(0.9).add_(0.1 * var.detach())
    return x * (self.weight * (var + self.eps).rsqrt())[:, None, None]


class LayerNorm(nn.LayerNorm, Dynamic):
  """Of the last axis; explanation mode holds the deviation, not the mean."""

  def forward(self, x):
    if not self.explaining:
      return super().forward(x)
    deviation = self.held(lambda x: (x.var(-1, unbiased=False, keepdim=True) + self.eps).sqrt(), x)
    y = (x - x.mean(-1, keepdim=True)) / deviation * self.weight
    return y if self.bias is None else y + self.bias


class PositionNorm(LayerNorm):
  """Of the channels of each position of [N, C, H, W]."""

  def forward(self, x):
    return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Family:
  """Which layers a network is made of."""

  def __init__(self, bcos: bool, unit_norm: bool = False, keep_activations: bool = True):
    self.bcos, self.unit_norm, self.keep_activations = bcos, unit_norm, keep_activations

  def conv(self, inputs, outputs, kernel, stride=1, padding=None, groups=1):
    padding = kernel // 2 if padding is None else padding
    if self.bcos:
      args = (inputs, outputs, kernel, stride, padding, groups)
      return BcosConv2d(*args, unit_norm=self.unit_norm)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

  def dense(self, inputs, outputs, bias=True):
    if self.bcos:
      return BcosLinear(inputs, outputs, unit_norm=self.unit_norm)
    return nn.Linear(inputs, outputs, bias=bias)

  def norm(self, features):
    return BatchNormUncentered2d(features) if self.bcos else nn.BatchNorm2d(features)

  def layer_norm(self, features):
    return LayerNorm(features, bias=not self.bcos)

  def act(self, kind=nn.ReLU):
    return kind() if self.keep_activations else nn.Identity()

  def pool(self):
    return nn.AvgPool2d(3, 2, 1) if self.bcos else nn.MaxPool2d(3, 2, 1)

  def logit_bias(self, classes):
    return -math.log(classes - 1) if self.bcos else 0.0


CONVENTIONAL = Family(False)
BCOSIFIED = Family(True)
BCOS_V2 = Family(True, unit_norm=True, keep_activations=False)


class Block(nn.Module):
  """A residual block, basic or bottleneck."""

  def __init__(self, family, inputs, width, stride, bottleneck):
    super().__init__()
    outputs = 4 * width if bottleneck else width
    plan = (
      [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
      if bottleneck
      else [(inputs, width, 3, stride), (width, width, 3, 1)]
    )
    for k, row in enumerate(plan, 1):
      setattr(self, f"conv{k}", family.conv(*row))
      setattr(self, f"bn{k}", family.norm(row[1]))
    self.act, self.depth, self.downsample = family.act(), len(plan), None
    if stride != 1 or inputs != outputs:
      self.downsample = nn.Sequential(family.conv(inputs, outputs, 1, stride), family.norm(outputs))

  def forward(self, x):
    y = x
    for k in range(1, self.depth + 1):
      y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
      y = self.act(y) if k < self.depth else y
    return self.act(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
  """torchvision's keys; as a B-cos network: average pool, 1x1 head, mean, logit bias."""

  def __init__(self, family, width=64, stages=(2, 2, 2, 2), classes=1000, bottleneck=False):
    super().__init__()
    self.conv1 = family.conv(6 if family.bcos else 3, width, 7, 2)
    self.bn1, self.act = family.norm(width), family.act()
    self.pool = family.pool()
    channels = width
    for i, depth in enumerate(stages):
      blocks = []
      for j in range(depth):
        stride = 2 if i > 0 and j == 0 else 1
        blocks.append(Block(family, channels, width * 2**i, stride, bottleneck))
        channels = width * 2**i * (4 if bottleneck else 1)
      setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
    self.fc = family.conv(channels, classes, 1) if family.bcos else nn.Linear(channels, classes)
    self.stages, self.bcos = len(stages), family.bcos
    self.logit_bias = family.logit_bias(classes)

  def forward(self, x):
    x = self.pool(self.act(self.bn1(self.conv1(x))))
    for i in range(self.stages):
      x = getattr(self, f"layer{i + 1}")(x)
    if self.bcos:
      return self.fc(x).mean(dim=(2, 3)) + self.logit_bias
    return self.fc(x.mean(dim=(2, 3)))


class DenseLayer(nn.Module):
  def __init__(self, family, inputs, growth):
    super().__init__()
    self.norm1, self.conv1 = family.norm(inputs), family.conv(inputs, 4 * growth, 1)
    self.norm2, self.conv2 = family.norm(4 * growth), family.conv(4 * growth, growth, 3)
    self.act = family.act()

  def forward(self, x):
    y = self.conv1(self.act(self.norm1(x)))
    return torch.cat([x, self.conv2(self.act(self.norm2(y)))], dim=1)


class BcosDenseNet(nn.Module):
  """A B-cos DenseNet with torchvision's keys: 1x1 head, mean, logit bias."""

  def __init__(self, family, blocks=(6, 12, 24, 16), growth=32, width=64, classes=1000):
    super().__init__()
    parts = {"conv0": family.conv(6, width, 7, 2), "norm0": family.norm(width)}
    parts |= {"relu0": family.act(), "pool0": family.pool()}
    for i, depth in enumerate(blocks, 1):
      if i > 1:
        parts[f"transition{i - 1}"] = _sequence(
          norm=family.norm(width),
          relu=family.act(),
          conv=family.conv(width, width // 2, 1),
          pool=nn.AvgPool2d(2),
        )
        width //= 2
      layers = {
        f"denselayer{j + 1}": DenseLayer(family, width + j * growth, growth) for j in range(depth)
      }
      parts[f"denseblock{i}"] = _sequence(**layers)
      width += depth * growth
    self.features = _sequence(**parts, **{f"norm{len(blocks) + 1}": family.norm(width)})
    self.act, self.classifier = family.act(), family.conv(width, classes, 1)
    self.logit_bias = family.logit_bias(classes)

  def forward(self, x):
    return self.classifier(self.act(self.features(x))).mean(dim=(2, 3)) + self.logit_bias


def _sequence(**parts: nn.Module) -> nn.Sequential:
  sequence = nn.Sequential()
  for name, part in parts.items():
    sequence.add_module(name, part)
  return sequence


class ConvNeXtBlock(nn.Module):
  def __init__(self, family, width):
    super().__init__()
    self.block = nn.Sequential(
      family.conv(width, width, 7, groups=width),
      PositionNorm(width, eps=1e-6, bias=False),
      family.conv(width, 4 * width, 1),
      family.conv(4 * width, width, 1),
    )
    self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))

  def forward(self, x):
    return x + self.layer_scale * self.block(x)


class BcosConvNeXt(nn.Module):
  """ConvNeXt of B-cos v2, with its keys: norms of positions, no activations."""

  def __init__(self, family, stages=(3, 3, 9, 3), widths=(96, 192, 384, 768), classes=1000):
    super().__init__()
    parts, before = [], 6
    for i, (depth, width) in enumerate(zip(stages, widths, strict=True)):
      size = 4 if i == 0 else 2
      scale = [
        family.conv(before, width, size, size, padding=0),
        PositionNorm(width if i == 0 else before, eps=1e-6, bias=False),
      ]
      parts += scale if i == 0 else [nn.Sequential(*reversed(scale))]
      parts.append(nn.Sequential(*(ConvNeXtBlock(family, width) for _ in range(depth))))
      before = width
    self.features = nn.Sequential(*parts)
    self.classifier = nn.Sequential(
      PositionNorm(before, eps=1e-6, bias=False), family.conv(before, classes, 1)
    )
    self.logit_bias = family.logit_bias(classes)

  def forward(self, x):
    return self.classifier(self.features(x)).mean(dim=(2, 3)) + self.logit_bias


class Attention(Dynamic):
  """Softmax attention; explanation mode holds queries and keys.

  Attributes:
    fused: Whether PyTorch's own fused attention computes it.
  """

  fused = False

  def __init__(self, family, width, heads):
    super().__init__()
    self.norm, self.heads = family.layer_norm(width), heads
    self.to_qkv = nn.Linear(width, 3 * width, bias=False)
    self.to_out = family.dense(width, width, bias=False)

  def forward(self, x):
    n, t, d = x.shape
    parts = self.to_qkv(self.norm(x)).chunk(3, dim=-1)
    q, k, v = (part.reshape(n, t, self.heads, -1).transpose(1, 2) for part in parts)
    if self.explaining:
      q, k = q.detach(), k.detach()
    if self.fused:
      mixed = TF.scaled_dot_product_attention(q, k, v)
    else:
      mixed = (q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)).softmax(dim=-1) @ v
    return self.to_out(mixed.transpose(1, 2).reshape(n, t, d))


class FeedForward(nn.Module):
  def __init__(self, family, width, hidden):
    super().__init__()
    self.net = _sequence(
      norm=family.layer_norm(width),
      linear1=family.dense(width, hidden),
      act=family.act(nn.GELU),
      linear2=family.dense(hidden, width),
    )

  def forward(self, x):
    return self.net(x)


class SimpleViT(nn.Module):
  """SimpleViT and ViTc, with the keys of B-cos v2; its B-cos networks have `0.` before them."""

  def __init__(
    self, family, patch=16, width=384, depth=12, heads=6, hidden=1536, classes=1000, stem=()
  ):
    super().__init__()
    embedding, channels, layers = {}, 6 if family.bcos else 3, []
    for outputs in stem:
      layers += [
        nn.Conv2d(channels, outputs, 3, 2 if outputs > channels else 1, 1),
        nn.GroupNorm(1, outputs),
        nn.GELU(),
      ]
      channels = outputs
    if stem:
      embedding["conv_stem"] = nn.Sequential(*layers)
    embedding["linear"] = family.dense(patch * patch * channels, width)
    self.to_patch_embedding = nn.ModuleDict(embedding)
    self.transformer = nn.ModuleDict(
      {
        f"encoder_{i}": nn.ModuleDict(
          {"attn": Attention(family, width, heads), "ff": FeedForward(family, width, hidden)}
        )
        for i in range(depth)
      }
    )
    self.linear_head = nn.ModuleDict(
      {"norm": family.layer_norm(width), "linear": family.dense(width, classes)}
    )
    self.patch, self.logit_bias = patch, family.logit_bias(classes)

  def forward(self, x):
    if "conv_stem" in self.to_patch_embedding:
      x = self.to_patch_embedding["conv_stem"](x)
    n, c, h, w = x.shape
    p = self.patch
    x = x.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
    x = self.to_patch_embedding["linear"](x.reshape(n, h // p, w // p, -1))
    x = (x + positions(h // p, w // p, x.shape[-1], x.device)).flatten(1, 2)
    for block in self.transformer.values():
      x = x + block["attn"](x)
      x = x + block["ff"](x)
    return self.linear_head["linear"](self.linear_head["norm"](x.mean(dim=1))) + self.logit_bias


@functools.cache
@torch.inference_mode(False)
def positions(rows, columns, width, device):
  """sin and cos of the column, then of the row, at falling frequencies."""
  omega = 1 / 10000 ** (torch.arange(width // 4) / (width // 4 - 1))
  x = torch.arange(columns)[None, :, None] * omega
  y = torch.arange(rows)[:, None, None] * omega
  x, y = x.expand(rows, -1, -1), y.expand(-1, columns, -1)
  return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=-1).to(device)


def explaining(network: nn.Module) -> nn.Module:
  """Puts a network into explanation mode."""
  for module in network.modules():
    if isinstance(module, Dynamic):
      module.explaining = True
  return network


def fused(network: nn.Module) -> nn.Module:
  """Lets PyTorch's fused attention compute every attention."""
  for module in network.modules():
    if isinstance(module, Attention):
      module.fused = True
  return network
