"""A team of workers holds one copy of the model between them: each worker a part of every unit's blocks.

A unit is gathered before a stage uses it, and freed after. Its gradient goes to the workers that hold its blocks, which add it
as integers. Every micro-batch is computed by one worker, so its bits do not depend on the size of the team.
"""
