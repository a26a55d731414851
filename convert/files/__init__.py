"""Kinds of files: archives of PyTorch, adapters, quantised weights, tokenizers."""
