"""Input data of language models: texts, tokenized and padded batches, vocabularies."""
