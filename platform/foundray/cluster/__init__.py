"""Connections to Ray, local Ray clusters, and queries of a cluster's resources."""
