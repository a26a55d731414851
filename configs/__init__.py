"""Recipes, one per file, based on common.py. See `bcos_jax.train.config` for their names."""
