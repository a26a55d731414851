"""The commands that measure networks: `evaluate`, `probe` and `benchmark`."""
