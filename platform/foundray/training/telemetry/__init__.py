"""What a run reports: logs, TensorBoard, Ray's metrics and the terminal.

Records enter at the `recorder`, in the driver; nothing here reaches back into the run.
"""
