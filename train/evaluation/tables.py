"""Files of an evaluation for other programs: measures, and the prediction for every picture."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import numpy as np

from bcos_jax.explain.saving import archive, table
from bcos_jax.io import files
from bcos_jax.io.bundles import Bundle

from ..data import pipeline
from . import showcase

WRITTEN = ("evaluation.json", "predictions.csv", "predictions.npz")


def write(
  folder: pathlib.Path,
  bundle: Bundle,
  examples: pipeline.Examples,
  measures: Mapping[str, Any],
  batch_size: int,
) -> list[pathlib.Path]:
  """Writes evaluation.json, predictions.csv and predictions.npz.

  Args:
    folder: Where to; exists.
    bundle: The network.
    examples: What it was measured on.
    measures: Plain values by name.
    batch_size: Images at a time.

  Returns:
    The files.
  """
  softmax = bundle.model.ops.probability == "softmax"
  probabilities, labels, readable = showcase.predict(
    bundle, examples, softmax=softmax, batch_size=batch_size
  )
  names = bundle.labels or tuple(map(str, range(probabilities.shape[1])))
  source = examples.dataset.source
  rows = []
  for i, row in enumerate(probabilities):
    best = int(np.argmax(row))
    true = [int(labels[i])] if labels.ndim == 1 else np.flatnonzero(labels[i]).tolist()
    file = getattr(source, "name_of", str)(i)
    rows.append(
      {
        "picture": file,
        "true": "|".join(names[k] for k in true),
        "predicted": names[best],
        "probability": float(row[best]),
        "read": bool(readable[i]),
      }
    )
  about = {"network": bundle.config["architecture"], "data": examples.dataset.name}
  paths = [folder / name for name in WRITTEN]
  written = {**about, "count": len(rows), "measures": dict(measures)}
  files.write(paths[0], (json.dumps(written, indent=1, default=float) + "\n").encode())
  files.write(paths[1], table(rows))
  arrays = {"probabilities": probabilities, "labels": labels, "read": readable}
  files.write(paths[2], archive(arrays))
  return paths
