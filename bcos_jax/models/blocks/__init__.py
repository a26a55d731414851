"""Building blocks that several architectures share and that take `ops: Ops`."""

from .attention import Attention as Attention
from .mlp import Mlp as Mlp
from .mlp import feed_forward as feed_forward
from .windows import WindowAttention as WindowAttention
