"""Every data set that can be prepared from its official files, by name."""

from __future__ import annotations

from collections.abc import Callable
import functools
import pathlib

from . import cifar, coco, emnist, funny_birds, imagenet, imagenet_s, mail, mnist, voc

Prepare = Callable[..., pathlib.Path]
"""(source, data_dir=..., splits=..., complete=...) -> folder of the data set."""

PREPARED: dict[str, Prepare] = {
  "imagenet2012": imagenet.prepare,
  **{name: functools.partial(mnist.prepare, name) for name in mnist.KINDS},
  **{f"emnist/{name}": functools.partial(emnist.prepare, name) for name in emnist.CONFIGS},
  **{name: functools.partial(cifar.prepare, name) for name in cifar.KINDS},
  **{name: functools.partial(voc.prepare, name) for name in voc.NAMES},
  **{name: functools.partial(coco.prepare, name) for name in coco.NAMES},
  imagenet_s.NAME: imagenet_s.prepare,
  funny_birds.NAME: funny_birds.prepare,
  mail.NAME: mail.prepare,
}
