"""Flax Linen layers equal to the published PyTorch modules, usable on their own; some in NNX."""

from . import nnx as nnx
from .drop_path import drop_path as drop_path
from .drop_path import drop_rates as drop_rates
from .dropout import dropout as dropout
from .linear import WEIGHTS as WEIGHTS
from .linear import BcosConv as BcosConv
from .linear import BcosDense as BcosDense
from .logits import LogitLayer as LogitLayer
from .norms import BatchNorm as BatchNorm
from .norms import GroupNorm as GroupNorm
from .norms import LayerNorm as LayerNorm
from .norms import ResponseNorm as ResponseNorm
from .norms import RMSNorm as RMSNorm
from .pool import GLOBAL_POOLS as GLOBAL_POOLS
from .pool import adaptive_avg_pool as adaptive_avg_pool
from .pool import avg_pool as avg_pool
from .pool import blur_pool as blur_pool
from .pool import covering_avg_pool as covering_avg_pool
from .pool import global_avg_pool as global_avg_pool
from .pool import global_max_pool as global_max_pool
from .pool import global_pool as global_pool
from .pool import max_pool as max_pool
from .scale import LayerScale as LayerScale
from .sources import add_constant as add_constant
