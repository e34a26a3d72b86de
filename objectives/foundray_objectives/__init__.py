"""The objectives that come with Foundray, one file each, found by entry point."""
