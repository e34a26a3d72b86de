"""What a cluster must have before a run begins on it."""
