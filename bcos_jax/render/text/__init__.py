"""Texts with the contributions of their words: HTML, terminal and LaTeX."""
