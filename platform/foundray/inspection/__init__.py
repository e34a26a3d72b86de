"""A spec, a run or its data, inspected: what follows, what was used and left out, and whether the records agree."""
