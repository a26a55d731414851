"""Image-text comparison: zero-shot classification and retrieval.

```python
text = TextTower.load("bundles/clip_text", "tokenizers/clip")
towers = zero_shot.Towers.of(bcos_jax.load("bundles/clip_image"), text)
classifier = towers.classifier(["dog", "cat"], zero_shot.templates.IMAGENET)
classifier.classify(images).probabilities                        # [N, 2]
scores = towers.logits(towers.image_features(images), towers.text_features(captions))
zero_shot.retrieve(scores.T, k=5)                                # images for each text
```
"""

from ..text.towers import TextTower
from . import templates
from .classifier import Prediction, ZeroShot, image_features
from .retrieval import recall, retrieve
from .similarity import Similarity
from .towers import Towers

__all__ = [
  "Prediction",
  "Similarity",
  "TextTower",
  "Towers",
  "ZeroShot",
  "image_features",
  "recall",
  "retrieve",
  "templates",
]
