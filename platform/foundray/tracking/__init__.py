"""Trackers: a run's numbers sent to W&B, MLflow, Trackio or a place of one's own.

A process beside the driver reads what the recorder has stored in the run's logs, so that no tracker can delay or end a run.
"""
