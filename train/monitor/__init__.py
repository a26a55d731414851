"""What a run reports while it runs: logged values, TensorBoard events, explanations, profiles."""
