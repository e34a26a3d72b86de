"""Objectives that come with Foundray, one per file, found by entry point."""
