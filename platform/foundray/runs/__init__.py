"""A run's folder: its lock, its facts, where it stands, and how it is followed and stopped."""
