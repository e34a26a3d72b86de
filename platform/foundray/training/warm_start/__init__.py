"""A run's first weights, if they come from another run."""
