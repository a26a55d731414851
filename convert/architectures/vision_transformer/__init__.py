"""Key tables and configurations of vision transformers.

Sources name the same parts differently, and several fuse queries, keys and values into one matrix.
Each function of these modules is one way of naming; a prefix says where a source hangs the network.
"""

from .aloe import ALOE_KEYS, ALOE_READERS
from .config import HF_READERS
from .hugging_face import hugging_face_keys
from .others import OTHER_KEYS
from .timm_arguments import READER

KEYS = (*hugging_face_keys(), *OTHER_KEYS, *ALOE_KEYS)
READERS = {**HF_READERS, **ALOE_READERS, "timm": READER}
"""Model type -> reader."""
