"""From raw sources to micro-batches: `sources → tokenizer → pack → prepare`, then `order → stream → feeder`."""
