"""What B-cosification claims, measured over several seeds."""

from .study import study

__all__ = ["study"]
