"""Runs as Ray jobs: submitted to a cluster, followed, asked and stopped there."""
