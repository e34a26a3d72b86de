"""The loss of a large run, forecast from a ladder of small ones by a scaling law."""
