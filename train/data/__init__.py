"""Input data: TFDS in array_record and folders of pictures, read by Grain, without TensorFlow."""

from .folders import read_folder as read_folder
from .pipeline import Examples as Examples
from .pipeline import to_arrays as to_arrays
from .sources import Dataset as Dataset
from .sources import open_dataset as open_dataset
from .sources import with_label_noise as with_label_noise
from .splits import open_splits as open_splits
