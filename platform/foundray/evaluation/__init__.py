"""Evaluation of trained encoders: their hidden states (`encoder`), and probes on them."""
