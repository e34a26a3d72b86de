"""What a trained encoder is worth: its hidden states (`encoder`), and probes on them."""
