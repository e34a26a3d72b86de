"""The elastic run. `driver` starts it, `elastic` decides who computes,
`step` is the exact step, and `checkpoints` keeps the state.
"""
