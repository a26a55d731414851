"""Layer families: the frozen value that an architecture asks for each of its layers.

An architecture is written once. What makes it a conventional network, a B-cosified one or a B-cos
network from scratch is the `Ops` it is given. Explanation mode is another value of the same
family, `ops.detached()`: nothing is ever toggled. Families are open, see docs/families.md.
"""

from .base import Ops as Ops
from .bcos import BcosOps as BcosOps
from .checks import check_detached as check_detached
from .names import current as current
from .names import from_dict as from_dict
from .names import register as register
from .names import to_dict as to_dict
from .standard import StandardOps as StandardOps
