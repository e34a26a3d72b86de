"""The exact step: micro-batches in, an update out, with the same bits for any number of workers.

`flat → gradient_sum → optimizers → trainer`.
"""
