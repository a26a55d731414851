"""Metrics of explanations of texts."""
