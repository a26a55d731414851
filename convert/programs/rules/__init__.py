"""The rules of ATen operators by kind; importing them registers them."""

from . import attention as attention
from . import convolutions as convolutions
from . import creation as creation
from . import elementwise as elementwise
from . import indexing as indexing
from . import norms as norms
from . import pools as pools
from . import products as products
from . import recurrent as recurrent
from . import reductions as reductions
from . import resampling as resampling
from . import shapes as shapes
