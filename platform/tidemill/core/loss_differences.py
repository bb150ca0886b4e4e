"""Evidence: per-row gains of one model over another, summed by clusters of event time."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum, sqrt

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

_ROUNDING_TOLERANCE = (
    1e-12  # spread below this share of the largest sum is the rounding of equal gains
)


@dataclass(frozen=True)
class LossDifferences:
    """Sums over clusters, as parallel tuples in ascending order of cluster.

    A cluster is named by its beginning in milliseconds since 1970. `gains` are sums of
    `loss(reference) − loss(challenger)`, `losses` sums of `loss(reference)`.
    """

    clusters: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    gains: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What evidence says: mean gain `m` a row, its clustered standard error, `t` and mean loss `L`.

    `m` and `loss` are None without rows, `se` and `dof` with fewer than two clusters, `t` there
    and where `se` is 0.
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
    """For each event time the beginning of its cluster, all in milliseconds since 1970.

    Clusters of `length` lie edge to edge before and after `start`, the beginning of the window.
    """
    return np.floor_divide(timestamp - start, length) * length + start


def cluster_differences(
    reference: npt.NDArray[np.float64],
    challenger: npt.NDArray[np.float64],
    clusters: npt.NDArray[np.int64],
) -> LossDifferences:
    """Evidence of the challenger over the reference, from losses of the same n rows."""
    names, codes = np.unique(clusters, return_inverse=True)
    gains = np.bincount(codes, reference - challenger)
    losses = np.bincount(codes, reference)
    rows = np.bincount(codes)
    return LossDifferences(*(tuple(sums.tolist()) for sums in (names, rows, gains, losses)))


def pool_differences(parts: Iterable[LossDifferences]) -> LossDifferences:
    """All evidence together: what several parts say of one cluster is summed."""
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
