"""Loss differences of two models per row, summed per cluster of event time."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum, sqrt

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

_ROUNDING_TOLERANCE = 1e-12
"""A spread up to this share of the largest sum is the rounding error of equal gains."""


@dataclass(frozen=True)
class LossDifferences:
    """Sums over clusters, as parallel tuples in ascending order of cluster.

    A cluster is identified by its start in milliseconds since 1970. `gains` are sums of
    `loss(reference) − loss(challenger)`, `losses` sums of `loss(reference)`.
    """

    clusters: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    gains: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """Mean gain `m` per row, its clustered standard error, `t`, and the mean loss of the reference.

    `m` and `loss` are None without rows, `se` and `dof` with fewer than two clusters, and `t` in
    these cases and if `se` is 0.
    """

    n: int
    clusters: int
    m: float | None = None
    loss: float | None = None
    se: float | None = None
    t: float | None = None
    dof: int | None = None


def cluster_starts(
    timestamp: npt.NDArray[np.int64], start: int, length: int
) -> npt.NDArray[np.int64]:
    """The start of the cluster of each event time, all in milliseconds since 1970.

    Clusters of `length` are adjacent, before and after `start`, the start of the window.
    """
    return np.floor_divide(timestamp - start, length) * length + start


def cluster_differences(
    reference: npt.NDArray[np.float64],
    challenger: npt.NDArray[np.float64],
    clusters: npt.NDArray[np.int64],
) -> LossDifferences:
    """The differences of challenger and reference, from their losses on the same n rows."""
    names, codes = np.unique(clusters, return_inverse=True)
    gains = np.bincount(codes, reference - challenger)
    losses = np.bincount(codes, reference)
    rows = np.bincount(codes)
    return LossDifferences(*(tuple(sums.tolist()) for sums in (names, rows, gains, losses)))


def pool_differences(parts: Iterable[LossDifferences]) -> LossDifferences:
    """All differences together; those of the same cluster are summed."""
    sums: dict[int, tuple[int, float, float]] = {}
    for part in parts:
        for name, n, gain, loss in zip(
            part.clusters, part.rows, part.gains, part.losses, strict=True
        ):
            total = sums.get(name, (0, 0.0, 0.0))
            sums[name] = (total[0] + n, total[1] + gain, total[2] + loss)
    names = sorted(sums)
    return LossDifferences(
        tuple(names),
        tuple(sums[name][0] for name in names),
        tuple(sums[name][1] for name in names),
        tuple(sums[name][2] for name in names),
    )


def estimate(differences: LossDifferences) -> Estimate:
    """`m = Σd/n`, `se = √(G/(G−1) · Σ_g(D_g − m·n_g)²)/n`, `t = m/se`, G−1 degrees of freedom."""
    n, g = sum(differences.rows), len(differences.clusters)
    if n == 0:
        return Estimate(0, g)
    m, loss = fsum(differences.gains) / n, fsum(differences.losses) / n
    if g < 2:
        return Estimate(n, g, m, loss)
    # The largest sum is the unit, so that no square over- or underflows.
    unit = max(abs(d) for d in differences.gains)
    if unit == 0:
        return Estimate(n, g, m, loss, 0.0, None, g - 1)
    sums = zip(differences.gains, differences.rows, strict=True)
    residuals = [d / unit - m / unit * k for d, k in sums]
    spread = sqrt(fsum(r * r for r in residuals))
    if spread <= _ROUNDING_TOLERANCE:
        return Estimate(n, g, m, loss, 0.0, None, g - 1)
    se = sqrt(g / (g - 1)) * spread * unit / n
    return Estimate(n, g, m, loss, se, m / se if se > 0 else None, g - 1)


def t_quantile(probability: float, dof: int) -> float:
    """The quantile of Student's t with `dof` degrees of freedom."""
    return float(stdtrit(dof, probability))
