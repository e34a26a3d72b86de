"""The update of a worker's shard: `shard` applies a kind, the others make them; `foundray.spec.optimizers` lists them."""
