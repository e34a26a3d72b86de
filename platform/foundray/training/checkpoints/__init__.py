"""The state on storage: shards of block ranges, their manifests, and when to write them."""
