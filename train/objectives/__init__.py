"""What training minimises: labels, or what a frozen teacher sees."""

from .choice import from_config as from_config
from .objective import OWN as OWN
from .objective import Objective as Objective
from .supervised import Supervised as Supervised
