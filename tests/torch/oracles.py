"""Small PyTorch networks, written from the papers: conventional, and B-cos as in its equations."""

from __future__ import annotations

import math

import torch
from torch import nn
import torch.nn.functional as TF


class BcosConv2d(nn.Module):
  """|cos|^(b-1) * conv(x), with the patch norm as a convolution of x^2 with ones."""

  def __init__(self, inputs, outputs, kernel, stride=1, padding=0, b=2.0, unit_norm=False):
    super().__init__()
    self.linear = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    self.b, self.unit_norm, self.explaining = b, unit_norm, False

  def forward(self, x):
    conv, weight = self.linear, self.linear.weight
    if self.unit_norm:
      weight = weight / weight.flatten(1).norm(dim=1)[:, None, None, None]
    y = TF.conv2d(x, weight, None, conv.stride, conv.padding)
    ones = torch.ones(1, *weight.shape[1:])
    norm = (TF.conv2d(x**2, ones, None, conv.stride, conv.padding) + 1e-6).sqrt()
    response = y.detach() if self.explaining else y
    norm = norm.detach() if self.explaining else norm
    if self.b == 2:
      return response.abs() / norm * y
    return ((response / norm).abs() + 1e-6) ** (self.b - 1) * y


class BcosLinear(nn.Module):
  """|cos|^(b-1) * linear(x), with the epsilon added to the norm."""

  def __init__(self, inputs, outputs):
    super().__init__()
    self.linear = nn.Linear(inputs, outputs, bias=False)
    self.explaining = False

  def forward(self, x):
    y, norm = self.linear(x), x.norm(dim=-1, keepdim=True) + 1e-12
    if self.explaining:
      return y * (y.abs() / norm).detach()
    return y * y.abs() / norm


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
    return x / (var + self.eps).sqrt()[:, None, None] * self.weight[:, None, None]


class Family:
  """Which layers a residual network is made of."""

  def __init__(self, bcos: bool, unit_norm: bool = False, relu: bool = True):
    self.bcos, self.unit_norm, self.relu = bcos, unit_norm, relu

  def conv(self, inputs, outputs, kernel, stride=1):
    if self.bcos:
      return BcosConv2d(inputs, outputs, kernel, stride, kernel // 2, unit_norm=self.unit_norm)
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

  def norm(self, features):
    return BatchNormUncentered2d(features) if self.bcos else nn.BatchNorm2d(features)

  def act(self):
    return nn.ReLU() if self.relu else nn.Identity()


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
    self.pool = nn.AvgPool2d(3, 2, 1) if family.bcos else nn.MaxPool2d(3, 2, 1)
    channels = width
    for i, depth in enumerate(stages):
      blocks = []
      for j in range(depth):
        stride = 2 if i > 0 and j == 0 else 1
        blocks.append(Block(family, channels, width * 2**i, stride, bottleneck))
        channels = width * 2**i * (4 if bottleneck else 1)
      setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
    self.fc = family.conv(channels, classes, 1) if family.bcos else nn.Linear(channels, classes)
    self.stages, self.bcos, self.classes = len(stages), family.bcos, classes

  def forward(self, x):
    x = self.pool(self.act(self.bn1(self.conv1(x))))
    for i in range(self.stages):
      x = getattr(self, f"layer{i + 1}")(x)
    if self.bcos:
      return self.fc(x).mean(dim=(2, 3)) - math.log(self.classes - 1)
    return self.fc(x.mean(dim=(2, 3)))


class Attention(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.norm, self.heads = nn.LayerNorm(width), heads
    self.to_qkv = nn.Linear(width, 3 * width, bias=False)
    self.to_out = nn.Linear(width, width, bias=False)

  def forward(self, x):
    n, t, d = x.shape
    q, k, v = (
      part.reshape(n, t, self.heads, -1).transpose(1, 2)
      for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)).softmax(dim=-1)
    return self.to_out((weights @ v).transpose(1, 2).reshape(n, t, d))


class FeedForward(nn.Module):
  def __init__(self, width, hidden):
    super().__init__()
    self.net = nn.Sequential()
    self.net.add_module("norm", nn.LayerNorm(width))
    self.net.add_module("linear1", nn.Linear(width, hidden))
    self.net.add_module("act", nn.GELU())
    self.net.add_module("linear2", nn.Linear(hidden, width))

  def forward(self, x):
    return self.net(x)


class SimpleViT(nn.Module):
  """The conventional SimpleViT and ViTc, with the keys of B-cos v2's `standard_` networks."""

  def __init__(self, patch, width, depth, heads, hidden, classes, stem=()):
    super().__init__()
    embedding = {}
    channels, layers = 3, []
    for outputs in stem:
      layers += [
        nn.Conv2d(channels, outputs, 3, 2 if outputs > channels else 1, 1),
        nn.GroupNorm(1, outputs),
        nn.GELU(),
      ]
      channels = outputs
    if stem:
      embedding["conv_stem"] = nn.Sequential(*layers)
    embedding["linear"] = nn.Linear(patch * patch * channels, width)
    self.to_patch_embedding = nn.ModuleDict(embedding)
    self.transformer = nn.ModuleDict(
      {
        f"encoder_{i}": nn.ModuleDict(
          {"attn": Attention(width, heads), "ff": FeedForward(width, hidden)}
        )
        for i in range(depth)
      }
    )
    self.linear_head = nn.ModuleDict(
      {"norm": nn.LayerNorm(width), "linear": nn.Linear(width, classes)}
    )
    self.patch = patch

  def forward(self, x):
    if "conv_stem" in self.to_patch_embedding:
      x = self.to_patch_embedding["conv_stem"](x)
    n, c, h, w = x.shape
    p = self.patch
    x = x.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
    x = self.to_patch_embedding["linear"](x.reshape(n, h // p, w // p, -1))
    x = (x + positions(h // p, w // p, x.shape[-1])).flatten(1, 2)
    for block in self.transformer.values():
      x = x + block["attn"](x)
      x = x + block["ff"](x)
    return self.linear_head["linear"](self.linear_head["norm"](x.mean(dim=1)))


def positions(rows, columns, width):
  """sin and cos of the column, then of the row, at falling frequencies."""
  omega = 1 / 10000 ** (torch.arange(width // 4) / (width // 4 - 1))
  x = torch.arange(columns)[None, :, None] * omega
  y = torch.arange(rows)[:, None, None] * omega
  x, y = x.expand(rows, -1, -1), y.expand(-1, columns, -1)
  return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=-1)


def explaining(network: nn.Module) -> nn.Module:
  """Puts every B-cos layer of a network into explanation mode."""
  for module in network.modules():
    if hasattr(module, "explaining"):
      module.explaining = True
  return network
