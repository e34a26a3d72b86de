"""Vectors of data by a run's encoder: computed on any number of workers, and searched.

The files alone decide how rows are cut into numbered blocks. A block's vectors are computed in fixed batches, so they have the
same bits on any worker, and become one Parquet file, written whole or not at all.
"""
