"""Who computes together, from which state, and what happens when that changes.

The `coordinator` decides in the driver; a `worker` runs the `loop` in a process of its own. `messages` is all that they say to
each other.
"""
