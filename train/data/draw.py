"""A command that draws a folder of example pictures for fine-tuning; see `shapes.write`.

python -m bcos_jax.train.data.draw shapes
python -m bcos_jax.train.data.draw several --several
"""

from __future__ import annotations

import argparse

from .shapes import write


def main() -> None:
  """Parses the command line and fills a folder."""
  parser = argparse.ArgumentParser(description="Draws a folder of coloured shapes.")
  parser.add_argument("folder")
  parser.add_argument("--count", type=int, default=50, help="pictures per class")
  parser.add_argument("--several", action="store_true", help="several per picture, and labels.csv")
  options = parser.parse_args()
  print(f"Drew {write(options.folder, count=options.count, several=options.several)}")


if __name__ == "__main__":
  main()
