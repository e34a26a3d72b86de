"""The real protocol in simulated time: seeded histories of faults, and what must hold in each."""
