"""The network: a stem, one backbone, and heads. Turns a batch of units into the heads' answers."""
