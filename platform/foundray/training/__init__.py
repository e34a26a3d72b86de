"""The elastic run. `driver` starts it; `elastic` decides who computes;
`step` is the exact step; `checkpoints` keeps the state.
"""
