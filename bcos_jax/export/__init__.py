"""Explanations that travel without Python: networks and their explanations for other runtimes.

```python
bcos_jax.export.save(net, "exports/digits", to="onnx")    # or "stablehlo"
run = bcos_jax.export.load("exports/digits")
found = run(images, target=3)                              # logits, contributions, picture, ...
```
"""

from .loading import Exported, load
from .onnx import rule
from .programs import PARTS, ExportProgram, program_of
from .saving import KINDS, save

__all__ = ["KINDS", "PARTS", "ExportProgram", "Exported", "load", "program_of", "rule", "save"]
