"""Entry point of `python -m bcos_jax.cli`."""

import sys

from . import main

sys.exit(main())
