"""Official archives of data sets as array_record, written without TensorFlow under TFDS' names."""
