"""This machine and this process: cores, memory, threads, signals and output."""
