"""Frozen features and what is trained on them: probes, sweeps, nearest neighbours."""
