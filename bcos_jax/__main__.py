"""The command line as `python -m bcos_jax`."""

import sys

from .cli import main

sys.exit(main())
