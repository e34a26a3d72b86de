"""Ray: connected to, started on this machine, and asked what it has."""
