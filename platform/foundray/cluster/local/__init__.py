"""A Ray cluster of several nodes on this machine, for trying out and testing how runs react to lost and added nodes."""
