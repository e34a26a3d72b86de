"""A run's two logs on storage: `events.jsonl`, what happened, and `metrics.jsonl`, a record per step.

Records go in as dictionaries (`foundray.records.schema` describes them) and come out as such, in order, whatever wrote them.
"""
