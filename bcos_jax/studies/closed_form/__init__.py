"""B-cosification in closed form against short fine-tuning at its best learning rates."""

from .study import study as study
