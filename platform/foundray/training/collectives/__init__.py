"""Collectives between the workers of a group: gloo or NCCL, and shared memory on one machine."""
