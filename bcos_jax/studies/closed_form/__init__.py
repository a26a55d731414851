"""B-cosification in closed form: against short fine-tuning, and what it depends on."""

from .settings import study as settings
from .study import study as study

__all__ = ["settings", "study"]
