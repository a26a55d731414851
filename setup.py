"""Installs bcos_jax with `train`, `convert` and `configs` as its subpackages.

Those three folders live at the top of the repository; `bcos_jax/` holds a link to each, so that
they are imported by one name only (`bcos_jax.train`) from a checkout and from a wheel alike.
"""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
  name="bcos_jax",
  version="0.1.0",
  description="B-cos networks and B-cosification in JAX/Flax: networks that explain themselves.",
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=find_packages(include=["bcos_jax", "bcos_jax.*"]),
  package_data={"bcos_jax.app": ["assets/*"]},
  install_requires=[
    "absl-py>=2.1",
    "array-record>=0.8",
    "flax>=0.12,<0.13",
    "grain>=0.2.12,<0.3",
    "jax>=0.10,<0.12",
    "matplotlib>=3.9",
    "ml-collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.6,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "pillow>=11.0",
    "safetensors>=0.5",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.9",
    "tqdm>=4.66",
    "transformers>=5.0,<6",
  ],
  extras_require={
    "app": ["dash>=4.1,<5", "plotly>=6.1,<8", "waitress>=3.0"],
    "browser": ["playwright>=1.50"],
    "datasets": ["datasets>=5.0,<6"],
    "test": ["pytest>=8.2", "pytest-xdist>=3.6", "ruff>=0.12"],
    "torch": ["captum>=0.9", "quantus>=0.6", "timm>=1.0", "torch==2.13.0", "torchvision==0.28.0"],
    "tpu": ["jax[tpu]>=0.10,<0.12"],
    "cuda": ["jax[cuda13]>=0.10,<0.12"],
  },
  entry_points={"console_scripts": ["bcos-jax = bcos_jax.cli:main"]},
)
