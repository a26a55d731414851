"""Training objectives: labels, captions, tokens of texts, or a frozen teacher's features."""

from .alignment import Alignment as Alignment
from .choice import from_config as from_config
from .contrast import ContrastiveDistillation as ContrastiveDistillation
from .match import Match as Match
from .objective import OWN as OWN
from .objective import Objective as Objective
from .pairs import Pairs as Pairs
from .supervised import Supervised as Supervised
from .teacher import Teacher as Teacher
from .text import TextLabels as TextLabels
from .text import TokenPrediction as TokenPrediction
