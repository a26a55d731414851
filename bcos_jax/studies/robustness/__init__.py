"""Robustness: attacks, adapted to B-cos networks too, corruptions, manipulated explanations."""

from .study import study as study

__all__ = ["study"]
