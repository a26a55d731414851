"""Augmentations against torchvision's, operation by operation and draw by draw."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from PIL import Image  # noqa: E402

from bcos_jax.inputs import Preprocess  # noqa: E402
from bcos_jax.train.data import augment, mix, policies  # noqa: E402

from . import live  # noqa: E402

pytestmark = pytest.mark.torch
live.torchvision()

from torchvision.transforms import RandomResizedCrop, autoaugment, v2  # noqa: E402
from torchvision.transforms import functional as TF  # noqa: E402

NAMES = {
  "identity": "Identity",
  "shear_x": "ShearX",
  "shear_y": "ShearY",
  "translate_x": "TranslateX",
  "translate_y": "TranslateY",
  "rotate": "Rotate",
  "brightness": "Brightness",
  "color": "Color",
  "contrast": "Contrast",
  "sharpness": "Sharpness",
  "posterize": "Posterize",
  "solarize": "Solarize",
  "autocontrast": "AutoContrast",
  "equalize": "Equalize",
}


@pytest.fixture(scope="module")
def picture():
  low = np.random.RandomState(0).randint(0, 256, (5, 7, 3), np.uint8)
  return Image.fromarray(low).resize((70, 50), Image.Resampling.BICUBIC)


def _space(theirs, size):
  transform = getattr(autoaugment, theirs)()
  bins = policies.BINS
  if theirs == "RandAugment":
    return transform._augmentation_space(bins, size)
  return transform._augmentation_space(bins)


@pytest.mark.parametrize(
  "theirs, ours", [("RandAugment", "RAND"), ("TrivialAugmentWide", "TRIVIAL_WIDE")]
)
def test_every_operation_at_every_strength(theirs, ours, picture):
  width, height = picture.size
  space = _space(theirs, (height, width))
  assert {NAMES[name] for name in policies.OPERATIONS} == set(space)
  changed = 0
  for name, operation in policies.OPERATIONS.items():
    magnitudes, signed = space[NAMES[name]]
    assert signed == (name in policies.SIGNED)
    for index in range(0, policies.BINS, 5):
      strength = getattr(policies, ours).strength(name, index, picture.size)
      expected = float(magnitudes[index]) if magnitudes.ndim else strength
      if magnitudes.ndim:
        assert strength == pytest.approx(expected, abs=1e-4)
      for sign in (1, -1) if signed else (1,):
        result = np.asarray(operation(picture, sign * expected))
        reference = autoaugment._apply_op(
          picture, NAMES[name], sign * expected, TF.InterpolationMode.BILINEAR, None
        )
        # A shear goes through degrees there, so an interpolated byte may round the other way.
        difference = np.abs(result.astype(int) - np.asarray(reference).astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01, (name, index)
        changed += np.any(result != np.asarray(picture))
  assert changed > 50


def test_boxes_have_torchvisions_distribution():
  """The same quantiles of area, shape and place over many draws, also where none fits."""
  rng = np.random.default_rng(0)
  for size in ((90, 60), (400, 20)):
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    ours = np.array([augment.random_box(size, scale, ratio, rng) for _ in range(4000)])
    blank = torch.zeros(1, size[1], size[0])
    torch.manual_seed(0)
    draws = [RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(4000)]
    top, left, height, width = np.array(draws).T
    theirs = np.stack([left, top, left + width, top + height], axis=1)
    for column in range(4):
      difference = np.abs(
        np.quantile(ours[:, column], np.linspace(0.1, 0.9, 9))
        - np.quantile(theirs[:, column], np.linspace(0.1, 0.9, 9))
      )
      assert difference.max() <= 0.05 * max(size), (size, column)


def test_a_crop_is_torchvisions_resized_crop(picture, monkeypatch):
  box = (10, 5, 45, 40)
  monkeypatch.setattr(augment, "random_box", lambda *args: box)
  made = augment.RandomResizedCrop(Preprocess((24, 24), 0), flip=0.0)
  result = made(made.prepare(picture), np.random.default_rng(0))
  expected = TF.resized_crop(picture, box[1], box[0], 35, 35, [24, 24], antialias=True)
  np.testing.assert_array_equal(result, np.asarray(expected, np.float32) / 255)
  mirrored = augment.RandomResizedCrop(Preprocess((24, 24), 0), flip=1.0)
  np.testing.assert_array_equal(
    mirrored(mirrored.prepare(picture), np.random.default_rng(0)), result[:, ::-1]
  )


def test_cutmix_boxes_are_torchvisions(monkeypatch):
  """Given the same share and centre."""
  images = np.random.RandomState(0).random_sample((3, 20, 30, 3)).astype(np.float32)
  for share, column, row in ((0.3, 2, 3), (0.9, 29, 19), (0.5, 15, 10), (0.0, 15, 10)):

    class Fixed:
      draws = iter((column, row))

      def integers(self, high):
        del high
        return next(self.draws)

    theirs = v2.CutMix(num_classes=3, alpha=1.0)
    values = iter((torch.tensor([column]), torch.tensor([row])))
    monkeypatch.setattr(torch, "randint", lambda *args, values=values, **kwargs: next(values))
    theirs._dist = type(
      "Dist", (), {"sample": lambda self, shape, share=share: torch.tensor(share)}
    )()
    nchw = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    mixed, labels = theirs(nchw, torch.arange(3))
    ours, own = mix.cutmix(images, share, Fixed())
    np.testing.assert_array_equal(ours, mixed.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(own, float(labels[0, 0]), atol=1e-6)
    monkeypatch.undo()
