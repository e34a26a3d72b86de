"""How the workers of a group exchange values in a step: gloo or NCCL, and shared memory on one machine."""
