"""A run or its data, looked at afterwards: what was audited, used, left out."""
