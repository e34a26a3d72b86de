"""Measures of collapse: how much features differ between samples, and in how many directions."""

from __future__ import annotations

import numpy as np

TINY = 1e-12


def spread(features: np.ndarray) -> float:
    """Spread of features [N, D] of N samples: 0 if all point the same way, 1 if they point everywhere (Chen and He 2021).

    The standard deviation of the features, normalised to length one, averaged over the dimensions, times the root of D.
    """
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), TINY)
    return float(directions.std(0).mean() * features.shape[1] ** 0.5)


def effective_rank(features: np.ndarray) -> float:
    """Effective rank of features [N, D], from 1 to min(N, D) (Roy and Vetterli 2007; for representations, Garrido et al. 2023).

    The exponential of the entropy of the singular values' shares. Differs: features are centred first, since
    their mean would count as a direction. Features that are all the same have rank 0.
    """
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    if values.sum() <= TINY * len(values):
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > TINY]
    return float(np.exp(-(shares * np.log(shares)).sum()))
