"""Key tables: rules that pair the keys of checkpoints with the paths of Flax variables."""
