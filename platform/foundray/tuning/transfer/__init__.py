"""Whether hyperparameters stay right for other widths and depths."""
