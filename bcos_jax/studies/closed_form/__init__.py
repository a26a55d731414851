"""Short fine-tuning of a B-cosified network, at the best learning rate of each length."""

from .study import study as study
