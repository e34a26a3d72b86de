"""Format numbers and records for people."""
