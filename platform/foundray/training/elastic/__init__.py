"""Which workers compute together, from which state, and what happens when that changes.

The `coordinator` decides in the driver; each `worker` runs the `loop` in its own process. They communicate only through
`messages`.
"""
