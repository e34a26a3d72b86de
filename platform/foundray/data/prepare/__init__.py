"""`prepare`: raw files in, tokenized, packed and checksummed shards out.

What cannot be used is counted in `quarantine`; `recipe` names the folder; `manifest` says what is in it.
"""
