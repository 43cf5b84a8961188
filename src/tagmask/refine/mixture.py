"""Mixtures of Gaussians for weighted points, such as the colours of what is more or less an object.

Expectation maximisation with full covariances (Dempster, Laird, Rubin 1977). Nothing is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

SPREAD = 4.0  # added to each variance, which is then never 0; for colours of 0..255: 2 of these  # ours
LEAST = 1e-6  # share of the weight under which a component is given up  # ours


@dataclass(frozen=True)
class Mixture:
    """``shares`` float64 (K,) that sum to 1, ``means`` (K, D), ``covariances`` (K, D, D)."""

    shares: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]


def fit_mixture(
    points: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    components: int = 5,
    steps: int = 15,
    spread: float = SPREAD,
) -> Mixture:
    """Return the mixture to which ``steps`` of expectation maximisation lead: points (N, D), their weights (N,) from 0.

    It starts from the points cut into ``components`` groups of equal weight along the direction in which they differ most.
    Components that nothing is left for are given up. Raises ``ValueError`` where all weights are 0, or what is given does
    not fit.
    """
    total = float(np.sum(weights))
    if points.ndim != 2 or weights.shape != (len(points),) or components < 1 or not 0 < total < np.inf:
        raise ValueError(f"expected points (N, D), weights (N,) above 0; got {points.shape}, {weights.shape}, {total}")
    places, share = points.astype(np.float64), weights.astype(np.float64) / total
    mixture = _fitted(places, share, _groups(places, share, components), spread)
    for _ in range(steps):
        mixture = _fitted(places, share, responsibilities(mixture, places), spread)
    return mixture


def log_density(mixture: Mixture, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithm of the mixture's density at points (N, D): float64 (N,)."""
    return np.asarray(logsumexp(_joint(mixture, points), axis=1))


def responsibilities(mixture: Mixture, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how probably each point (N, D) comes from each component: float64 (N, K), each row summing to 1."""
    joint = _joint(mixture, points)
    return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def _joint(mixture: Mixture, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(share of the component times its density at the point): (N, K)."""
    found = np.empty((len(points), len(mixture.shares)))
    for k, (share, mean, covariance) in enumerate(zip(mixture.shares, mixture.means, mixture.covariances, strict=True)):
        root = np.linalg.cholesky(covariance)
        off = solve_triangular(root, (points - mean).T, lower=True)  # (D, N)
        volume = np.log(np.diag(root)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
        found[:, k] = np.log(share) - volume - 0.5 * (off**2).sum(axis=0)
    return found


def _groups(points: NDArray[np.float64], share: NDArray[np.float64], components: int) -> NDArray[np.float64]:
    """Return 1 where a point belongs to a group, else 0: (N, K)."""
    off = points - share @ points
    longest = np.linalg.eigh((off * share[:, None]).T @ off)[1][:, -1]
    order = np.argsort(off @ longest, kind="stable")
    middle = np.cumsum(share[order]) - share[order] / 2
    group = np.empty(len(points), dtype=np.int64)
    group[order] = np.minimum((middle * components).astype(np.int64), components - 1)
    return np.eye(components)[group]


def _fitted(
    points: NDArray[np.float64], share: NDArray[np.float64], belongs: NDArray[np.float64], spread: float
) -> Mixture:
    """Return the mixture that suits points best that belong to the components as ``belongs`` (N, K) says."""
    mass = share @ belongs  # (K,)
    kept = mass > LEAST
    part = (belongs[:, kept] * share[:, None] / mass[kept]).T  # (K, N), rows sum to 1
    means = part @ points
    off = points[None] - means[:, None]  # (K, N, D)
    covariances = np.einsum("kn,knd,kne->kde", part, off, off, optimize=True) + spread * np.eye(points.shape[1])
    return Mixture(mass[kept] / mass[kept].sum(), means, covariances)
