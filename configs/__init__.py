"""Recipes: one file each, built from common.py. See `bcos_jax.train.config` for how to name one."""
