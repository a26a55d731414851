"""Input data: TFDS in array_record, folders of pictures and texts, read by Grain, no TensorFlow."""

from .folders import read_folder as read_folder
from .pipeline import Examples as Examples
from .pipeline import to_arrays as to_arrays
from .sources import Dataset as Dataset
from .sources import open_dataset as open_dataset
from .sources import with_label_noise as with_label_noise
from .splits import open_splits as open_splits
from .text.pipeline import TextExamples as TextExamples
from .text.sources import TextDataset as TextDataset
from .text.sources import open_texts as open_texts
from .text.sources import read_texts as read_texts
