"""Runs as Ray jobs: submitting them to a cluster, following, querying and stopping them."""
