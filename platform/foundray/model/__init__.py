"""The network: a stem, one backbone, heads."""
