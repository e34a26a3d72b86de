"""Vectors of data by a run's encoder: made on any number of workers, and searched.

The rows of the data are cut into numbered blocks by the files alone. A block's vectors are computed in fixed batches, so that
they are the same bits whoever computes them, and become one Parquet file, written whole or not at all.
"""
