"""The quickstart, the project's main job on real data in minutes."""

from .findings import QuickstartFindings as QuickstartFindings
from .run import SHORT as SHORT
from .run import Length as Length
from .run import quickstart as quickstart
