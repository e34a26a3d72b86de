"""Raw files: found, told apart by name, decompressed as streams."""
