"""Raw files: finding them, telling their formats by name, decompressing them as streams."""
