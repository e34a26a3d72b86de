"""The elastic protocol as a pure state machine: who computes together, from which state, and what is kept."""
