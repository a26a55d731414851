"""Input data: TFDS in array_record, read by Grain, without TensorFlow."""

from .pipeline import Examples as Examples
from .pipeline import to_arrays as to_arrays
from .sources import open_dataset as open_dataset
