"""Building blocks that several architectures share and that take `ops: Ops`."""

from .attention import Attention as Attention
from .attention import MaskedAttention as MaskedAttention
from .attention import SelfAttention as SelfAttention
from .windows import WindowAttention as WindowAttention
