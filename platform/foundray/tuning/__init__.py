"""Search small, train big: hyperparameters from proxies, carried to the full run, with a forecast of its loss."""
