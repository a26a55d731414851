"""Evaluation: accuracy and loss, metrics of explanations, reports."""
