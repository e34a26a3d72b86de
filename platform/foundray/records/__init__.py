"""A run's two logs on storage: `events.jsonl`, what happened, and `metrics.jsonl`, one record per step.

Records are written and read as dictionaries (see `foundray.records.schema`), in order, whichever version wrote them.
"""
