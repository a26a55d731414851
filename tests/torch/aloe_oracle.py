"""A student of ALOE in plain PyTorch, written from the facts of its public code (section 1)."""

import numpy as np
import torch
from torch.nn import functional


def logits(state, x, heads=2, eps=1e-5):
  """The logits of a state dict for [N, 6, H, W]: CLS or MAP pooling, rotary positions if there is
  no table, LayerScale if there is one."""
  base = "vision_model."
  state = {key.removeprefix(base): torch.from_numpy(np.array(t)) for key, t in state.items()}

  def bcos(y, x_norm, weight):
    cosine = y / x_norm / weight.flatten(1).norm(dim=1).reshape(-1, *(1,) * (y.ndim == 4) * 2)
    return y * cosine.abs()

  def linear(x, name):
    weight = state[f"{name}.linear.weight"]
    return bcos(x @ weight.T, x.norm(dim=-1, keepdim=True).clamp(min=1e-12), weight)

  def norm(x, name):
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], eps=eps)

  def heads_of(x):
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)

  def attend(q, k, v):
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

  def mlp(x, name):
    return linear(functional.gelu(linear(x, f"{name}.fc1")), f"{name}.fc2")

  i = 0
  while (stage := f"embeddings.conv_stem.stem.{i}") + ".norm.weight" in state:
    weight = state[f"{stage}.conv.linear.weight"]
    stride = 1 + (weight.shape[0] > x.shape[1])
    squares = functional.avg_pool2d((x * x).sum(1, keepdim=True), 3, stride, 1) * 9
    x = bcos(
      functional.conv2d(x, weight, stride=stride, padding=1), (squares + 1e-6).sqrt(), weight
    )
    x = x / (x.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    x = (x * state[f"{stage}.norm.weight"].reshape(-1, 1, 1)).relu()
    i += 1
  side = x.shape[-1]
  x = linear(x.flatten(2).transpose(1, 2), "embeddings.patch_embedding")
  prefix = [
    state[name].expand(len(x), -1, -1)
    for name in ("embeddings.cls_token", "embeddings.register_tokens.tokens")
    if name in state
  ]
  x = torch.cat([*prefix, x], dim=1)
  table = state.get("embeddings.pos_embedding.embedding.weight")
  x = x if table is None else x + table
  i = 0
  while (layer := f"encoder.layers.{i}") + ".layer_norm1.weight" in state:
    qkv = norm(x, f"{layer}.layer_norm1") @ state[f"{layer}.self_attn.qkv_proj.weight"].T
    q, k, v = (heads_of(part) for part in qkv.chunk(3, dim=-1))
    if table is None:
      q, k = turned(q, side), turned(k, side)
    scales = [state.get(f"{layer}.layer_scale{n}.lambda1", 1.0) for n in (1, 2)]
    x = x + linear(attend(q, k, v), f"{layer}.self_attn.out_proj") * scales[0]
    x = x + mlp(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp") * scales[1]
    i += 1
  x = norm(x, "post_layernorm")
  if "head.probe" in state:
    q = heads_of(
      state["head.probe"].expand(len(x), -1, -1) @ state["head.attention.q_proj.weight"].T
    )
    k, v = (heads_of(p) for p in (x @ state["head.attention.kv_proj.weight"].T).chunk(2, dim=-1))
    x = linear(attend(q, k, v), "head.attention.out_proj")
    x = x + mlp(norm(x, "head.layernorm"), "head.mlp")
  result = linear(x[:, 0], "classifier")
  return result - np.log(result.shape[-1] - 1)


def turned(x, side, theta=100.0):
  """Rotary positions of the last side * side tokens (facts, section 1)."""
  x = x.clone()
  dim = x.shape[-1]
  frequency = torch.tensor([theta ** (-4 * k / dim) for k in range(dim // 4)])
  for token in range(side * side):
    places = [2 * (place + 0.5) / side - 1 for place in divmod(token, side)]
    angle = torch.cat([2 * np.pi * place * frequency for place in places]).tile(2)
    at = x[:, :, token - side * side].clone()
    low, high = at.chunk(2, dim=-1)
    x[:, :, token - side * side] = at * angle.cos() + torch.cat([-high, low], -1) * angle.sin()
  return x
