"""The update of a worker's shard: `registry` lists the kinds, `shard` applies one, the other modules make them."""
