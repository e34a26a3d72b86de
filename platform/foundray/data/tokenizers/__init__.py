"""Tokenizers: read or trained, checked, and applied to documents of any length."""
