"""A Ray cluster of several nodes on this machine, to try out what happens when nodes come and go."""
