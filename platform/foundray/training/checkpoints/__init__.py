"""The state on storage: shards of block ranges, their manifests, and what is kept."""
