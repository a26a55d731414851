"""The B-cos equations, gates and attention on arrays, channels last."""

from .attention import attend as attend
from .attention import attention_weights as attention_weights
from .attention import mix as mix
from .attention import rotate as rotate
from .bcos import CONV_GUARD as CONV_GUARD
from .bcos import DENSE_GUARD as DENSE_GUARD
from .bcos import Guard as Guard
from .bcos import bcos_scale as bcos_scale
from .bcos import check_b as check_b
from .bcos import group_sum as group_sum
from .bcos import kernel_norm as kernel_norm
from .bcos import max_out as max_out
from .bcos import patch_sq_norm as patch_sq_norm
from .bcos import sq_norm as sq_norm
from .bcos import square_scale as square_scale
from .bcos import square_scale_gradient as square_scale_gradient
from .bcos import unit_kernel as unit_kernel
from .bcos import unit_length as unit_length
from .gates import GATES as GATES
from .gates import gated as gated
from .held import hold as hold
from .held import widened as widened
