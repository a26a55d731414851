"""B-cos networks and B-cosification in JAX/Flax: networks that explain themselves."""

import importlib
from typing import TYPE_CHECKING

from . import layers as layers
from .bcosify import bcosify as bcosify
from .errors import InputError as InputError
from .errors import RunError as RunError
from .explain.conventions import as_published as as_published
from .explain.explainer import Explainer as Explainer
from .explain.images import Explanation as Explanation
from .explain.images import dynamic_linear as dynamic_linear
from .explain.patches import backbone as backbone
from .explain.patches import explain_patches as explain_patches
from .explain.text_reader import TextReader as TextReader
from .explain.texts import Contrast as Contrast
from .explain.texts import TextExplanation as TextExplanation
from .explain.tokens import explain_tokens as explain_tokens
from .inputs import Encoding as Encoding
from .inputs import Preprocess as Preprocess
from .io.bundles import Bundle as Bundle
from .io.bundles import save as save
from .models import create as create
from .models import names as names
from .network import Network as Network
from .network import load as load
from .ops import BcosOps as BcosOps
from .ops import Ops as Ops
from .ops import StandardOps as StandardOps
from .program import explain as explain
from .text.towers import TextTower as TextTower
from .zero_shot.explanation import explain_text as explain_text

if TYPE_CHECKING:
  from . import attribution as attribution
  from . import configs as configs
  from . import convert as convert
  from . import export as export
  from . import metrics as metrics
  from . import program as program
  from . import render as render
  from . import studies as studies
  from . import train as train
  from . import zero_shot as zero_shot

__version__ = "0.2.0.dev0"

_ON_DEMAND = (
  "attribution",
  "configs",
  "convert",
  "export",
  "metrics",
  "program",
  "render",
  "studies",
  "train",
  "zero_shot",
)


def __getattr__(name: str):
  # Keeps `import bcos_jax` about as fast as importing jax and flax.
  if name in _ON_DEMAND:
    return importlib.import_module(f".{name}", __name__)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
