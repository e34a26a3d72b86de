"""The training stream: takes a position in the global order, yields micro-batches.

`order → plan → parcels → feeder → leases`. A worker imports only `leases`.
"""
