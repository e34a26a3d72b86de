"""Updates of a worker's shard, in 32 and in 8 bits."""
