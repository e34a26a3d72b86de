"""The search: trials of proxies under a FLOP budget, and what becomes of the best one."""
