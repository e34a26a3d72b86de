"""Numbers, errors and records as people read them."""
