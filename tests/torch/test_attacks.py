"""FGSM and PGD on copied weights, against Captum and, where it differs, plain PyTorch.

Captum steps along the sign of the gradient for every norm and normalises nothing, so it has no
PGD in L2 as published; that one is written out here.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from captum.robust import FGSM, PGD  # noqa: E402
from torch.nn import functional as T  # noqa: E402

from bcos_jax import metrics  # noqa: E402

from .test_attribution import IMAGES, TARGETS, convolutional  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::UserWarning:captum")]

IMAGE = torch.from_numpy(np.moveaxis(IMAGES, -1, 1).copy())
CLASSES = torch.from_numpy(TARGETS)


class Encoded(torch.nn.Module):
  """The network of plain colours."""

  def __init__(self, network, encoding):
    super().__init__()
    self.network = network
    self.mean, self.std = (
      torch.tensor(v).reshape(1, -1, 1, 1) for v in (encoding.mean, encoding.std)
    )

  def forward(self, x):
    return self.network((x - self.mean) / self.std)


def margin(logits, classes):
  true = T.one_hot(classes, logits.shape[1]).bool()
  return logits.masked_fill(true, -torch.inf).amax(1) - logits[true]


def cross_entropy(logits, classes):
  return T.cross_entropy(logits, classes, reduction="none")


TORCH_LOSSES = {"cross_entropy": cross_entropy, "margin": margin}


def both():
  model, variables, network = convolutional()
  return model, variables, Encoded(network, model.ops.encoding)


def agree(found, expected):
  """Signs of gradients near 0 may differ; nothing else may."""
  expected = np.moveaxis(expected.detach().numpy(), 1, -1)
  assert (np.abs(found - expected) > 1e-5).mean() < 0.005


@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_fgsm(loss):
  model, variables, network = both()
  attack = FGSM(network, TORCH_LOSSES[loss], lower_bound=0.0, upper_bound=1.0)
  expected = attack.perturb(IMAGE, epsilon=0.03, target=CLASSES)
  agree(metrics.fgsm(model, variables, IMAGES, TARGETS, epsilon=0.03, loss=loss), expected)


@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_pgd_in_linf(loss):
  model, variables, network = both()
  attack = PGD(network, TORCH_LOSSES[loss], lower_bound=0.0, upper_bound=1.0)
  settings = {"step_size": 0.005}
  # Captum gives its last iterate; while steps are that small, the last one is the best.
  expected = attack.perturb(IMAGE, radius=0.02, step_num=5, target=CLASSES, **settings)
  found = metrics.pgd(
    *(model, variables, IMAGES, TARGETS),
    epsilon=0.02,
    steps=5,
    random_start=False,
    loss=loss,
    **settings,
  )
  agree(found, expected)


def plain_pgd(network, images, classes, epsilon, steps, step_size, loss):
  """Returns the best of all iterates: wrong ones first, then by their loss."""
  x, visited = images.clone(), []
  for _ in range(steps + 1):
    x = x.detach().requires_grad_()
    logits = network(x)
    losses = loss(logits, classes)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    visited.append((x.detach(), (logits.argmax(1) != classes).tolist(), losses.tolist()))
    x = x + step_size * T.normalize(gradient.flatten(1), dim=1).reshape(x.shape)
    change = (x - images).flatten(1)
    share = (epsilon / change.norm(dim=1, keepdim=True)).clamp(max=1)
    x = (images + (share * change).reshape(x.shape)).clamp(0, 1)
  best = [
    max(range(steps + 1), key=lambda s, i=i: (visited[s][1][i], visited[s][2][i]))
    for i in range(len(images))
  ]
  return torch.stack([visited[s][0][i] for i, s in enumerate(best)])


@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_pgd_in_l2(loss):
  model, variables, network = both()
  settings = {"epsilon": 0.5, "steps": 5, "step_size": 0.2}
  expected = plain_pgd(network, IMAGE, CLASSES, loss=TORCH_LOSSES[loss], **settings)
  found = metrics.pgd(
    *(model, variables, IMAGES, TARGETS), norm="l2", random_start=False, loss=loss, **settings
  )
  np.testing.assert_allclose(found, np.moveaxis(expected.numpy(), 1, -1), atol=1e-5)
