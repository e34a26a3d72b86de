"""Slots that Ray Train reserves for workers, and the board where their holders report."""
