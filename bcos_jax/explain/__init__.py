"""Exact explanations of images, texts and patches, and the targets they explain."""
