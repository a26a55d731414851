"""CLIP's ResNets against timm's, which reads OpenAI's keys by its own rules."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from bcos_jax import StandardOps, convert, create  # noqa: E402
from bcos_jax.convert import verify  # noqa: E402
from bcos_jax.convert.tables.keys import Keys  # noqa: E402
from bcos_jax.io import bundles  # noqa: E402

from ..common import filled  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
SIDE = 64

MODULES = (
  ("stem.conv{k}.conv", "conv{k}"),
  ("stages.0.{j}", "layer1_{j}"),
  ("stages.1.{j}", "layer2_{j}"),
  ("stages.2.{j}", "layer3_{j}"),
  ("head", "attnpool"),
)
FIELDS = {"stages": (1, 2, 1), "width": 16, "image_size": SIDE}


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)


def _timm(state):
  live.torchvision()
  from timm.models import byobnet

  blocks = tuple(
    byobnet.ByoBlockCfg(type="bottle", d=depth, c=64 * 2**i, s=1 if i == 0 else 2, br=0.25)
    for i, depth in enumerate(FIELDS["stages"])
  )
  config = byobnet.ByoModelCfg(
    blocks=blocks,
    stem_chs=(8, 8, 16),
    stem_type="",
    stem_pool="avg2",
    downsample="avg",
    aa_layer="avg",
    head_type="attn_abs",
  )
  network = byobnet.ByobNet(config, num_classes=10, img_size=SIDE).eval()
  tensors = {key: torch.from_numpy(np.array(tensor)) for key, tensor in state.items()}
  network.load_state_dict(byobnet.checkpoint_filter_fn(tensors, network))
  return network


def test_timm():
  model = create("clip_resnet_test", ops=StandardOps(), **FIELDS)
  state = convert.to_state_dict(bundles.make_bundle(model, filled(model)), "openai_clip")
  state = {key if key.startswith("visual.") else f"visual.{key}": t for key, t in state.items()}
  text = {
    "positional_embedding": np.ones((5, 4), np.float32),
    "transformer.resblocks.0.ln_1.bias": np.ones(4, np.float32),
    "logit_scale": np.ones((), np.float32),
  }
  whole = {**state, **text}
  bundle = convert.from_state_dict(whole, "clip_resnet_test", fields=FIELDS)
  assert bundle.config["provenance"] == {"source": "openai_clip", "layout": "clip"}
  written = convert.to_state_dict(bundle)
  assert written.keys() == whole.keys()
  assert all(written[key].tobytes() == tensor.tobytes() for key, tensor in whole.items())

  keys = Keys("timm", bundle.model.ops, (), MODULES)
  checks = verify.compare(_timm(whole), bundle, keys, live.encoded(SIDE))
  assert {check.flax for check in checks} >= {"conv1", "layer1_0", "layer2_1", "attnpool"}
  worst = max(checks, key=lambda check: check.error)
  assert worst.error <= 1e-5, worst
