"""Whether hyperparameters transfer to other widths and depths."""
