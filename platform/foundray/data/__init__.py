"""From raw files to micro-batches: `files → formats → prepare`, then `stream`."""
