"""What Foundray's own tests share with those of other packages, such as one that brings an objective.

In: changes of a small spec. Out: specs (`specs`), trainers and synthetic micro-batches (`trainers`), the same function on every
worker of a group (`groups`), finished runs without training (`runs`) and their records (`records`), a clock that tests advance
(`clock`), and waiting for what happens beside a test (`waiting`). Nothing here needs pytest, and nothing else of Foundray
imports it.
"""
