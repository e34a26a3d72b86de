"""The training stream: a position in the global order in, micro-batches out.

`order → plan → parcels → feeder → leases`. A worker needs `leases` alone.
"""
