"""A forecast of goodput: the real protocol in simulated time, beside models of two peers under the same trace of failures."""
