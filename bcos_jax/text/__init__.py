"""Texts: tokenizers, words, text towers, and what an explanation of a text is."""
