"""What is learned from: one modality a file, found by entry point."""
