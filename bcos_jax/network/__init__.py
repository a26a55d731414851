"""Networks for use: from a source in one line, and from pictures or texts to explanations.

```python
net = bcos_jax.load("runs/mine/bundle")
net.explain("cat.jpg").show()
net.explain(["a.jpg", "photos/"], target="tabby", batch_size=8).save("out/")
net.predict("cat.jpg", top=5)
```
"""

from .network import Network as Network
from .network import RankedClass as RankedClass
from .opening import holds_bundle as holds_bundle
from .opening import load as load
from .opening import located as located
