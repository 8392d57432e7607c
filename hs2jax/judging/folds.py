"""Which fold of a cross-validation a sample is held out in."""

from collections.abc import Sequence

import numpy as np


def draw(clusters: Sequence, folds: int, seed: int, least: int = 2) -> np.ndarray:
    """The fold [N] of each sample, from 0; the samples of a cluster (a prompt) are in one fold.

    The same clusters and seed give the same folds. Raises ValueError unless there are `least` folds
    or more and a cluster for each.
    """
    member = np.unique(np.asarray(clusters), return_inverse=True)[1]
    G = int(member.max(initial=-1)) + 1
    if not least <= folds <= G:
        raise ValueError(
            f"cross-validation in {folds} folds needs at least {least} folds and a cluster (a "
            f"prompt) for each, and there are {G} clusters: give more samples, or fewer folds"
        )
    return np.random.default_rng(seed).permutation(np.arange(G) % folds)[member]
