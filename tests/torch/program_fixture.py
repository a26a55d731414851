"""Writes tests/fixtures/programs: `python -m tests.torch.program_fixture`, by PyTorch 2.13."""

import io
import json
import pathlib
import re
import zipfile

import numpy as np
import torch
from torch import nn

from . import live

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures" / "programs"


class Small(nn.Module):
  """Convolution, batch norm, ReLU in place, pooling, attention, layer norm, GELU, a tied head."""

  def __init__(self):
    super().__init__()
    self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
    self.act = nn.ReLU(inplace=True)
    self.pool = nn.MaxPool2d(4)
    self.norm = nn.LayerNorm(8)
    self.qkv = nn.Linear(8, 24)
    self.mlp = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.5))
    self.head = nn.Linear(8, 8)
    self.head.weight = self.mlp[0].weight
    self.register_buffer("scale", torch.linspace(0.5, 1.5, 8), persistent=False)

  def forward(self, x):
    x = self.pool(self.act(self.stem(x)))
    x = x.flatten(2).transpose(1, 2)
    count, length, width = x.shape
    heads = self.qkv(self.norm(x)).reshape(count, length, 3, 2, width // 2)
    q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v)
    x = x + mixed.transpose(1, 2).reshape(count, length, width)
    x = x + self.mlp(x)
    return self.head(x.mean(1)) * self.scale


def small():
  """Returns the network with weights off their initial values, in evaluation mode."""
  torch.manual_seed(0)
  return live.stirred(Small())


def main():
  """Writes the program as a user saves it, without the paths of this machine, and its outputs."""
  network = small()
  x = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 12, 12)).astype("f"))
  exported = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
  file = io.BytesIO()
  torch.export.save(exported, file)
  FOLDER.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(file) as saved, zipfile.ZipFile(FOLDER / "small.pt2", "w") as written:
    for info in saved.infolist():
      data = saved.read(info)
      if info.filename.endswith("models/model.json"):
        data = re.sub(rb'File \\"[^"]*/', rb'File \\"', data)
        json.loads(data)
      if "sample_inputs" not in info.filename:
        written.writestr(info.filename, data, zipfile.ZIP_DEFLATED)
  with torch.no_grad():
    expected = network(x).numpy()
  np.savez(FOLDER / "small.npz", inputs=x.numpy(), outputs=expected)


if __name__ == "__main__":
  main()
