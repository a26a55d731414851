"""Build script of bcos_jax, for tools that look for one; pyproject.toml says everything.

`train`, `convert` and `configs` live at the top of the repository. `bcos_jax/` holds a link to
each, so that they are imported by one name only (`bcos_jax.train`) from a checkout and from a wheel
alike.
"""

from setuptools import setup

setup()
