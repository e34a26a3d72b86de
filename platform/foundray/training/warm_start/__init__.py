"""Starting from another run's weights."""
