"""How dense the data is around each sample, outliers, and lists in which dense regions are thinned.

The radius of a sample is the distance to its k-th nearest neighbour in a map of few dimensions d, so its density is
about 1 / radius^d. Outliers are the samples with the largest radii. A thinned list is a weighted sample without
replacement with weights radius^d (Efraimidis & Spirakis 2006), which covers the map evenly.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drb.types import UInt64Array

_ROWS = 1024


def radii(places: Tensor, neighbours: int) -> Tensor:
    """Return each sample's distance to its k-th nearest other one: float64 [n], 0 where there is no other.

    places: the samples in the map, [n, d]. With fewer than k others the farthest counts.
    """
    places = places.double()
    k = min(neighbours, len(places) - 1)
    if k < 1:
        return places.new_zeros(len(places))
    found = []
    for start in range(0, len(places), _ROWS):
        some = places[start : start + _ROWS]
        distances = torch.cdist(some, places, compute_mode="donot_use_mm_for_euclid_dist")
        itself = torch.arange(len(some), device=places.device)
        distances[itself, itself + start] = torch.inf
        found.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(found)


def thinned(places: Tensor, keys: UInt64Array, size: int, *, outliers: float, neighbours: int) -> Tensor:
    """Return which samples to keep, in their order: int64 [min(size, n)], places among them; outliers come last.

    The first of a list are a list of that size themselves.

    Args:
        places: the samples in the map, [n, d]. keys: of the samples, uniform, by which chance decides.
        outliers: the share of the samples that are left out.
    """
    radius = radii(places, neighbours).cpu().numpy()
    left_out = int(outliers * len(radius))
    by_radius = np.argsort(radius, kind="stable")
    inside, outside = np.sort(by_radius[: len(radius) - left_out]), by_radius[len(radius) - left_out :]
    uniform = (keys[inside] >> np.uint64(11)).astype(np.float64) + 0.5
    waits = -np.log(uniform / 2.0**53)
    scaled = radius[inside] / max(float(radius[inside].max(initial=0.0)), 1e-300)
    with np.errstate(divide="ignore"):
        logs = np.log(waits) - places.shape[1] * np.log(scaled)  # of wait / weight, which would be too small or large
    return torch.from_numpy(np.concatenate((inside[np.argsort(logs, kind="stable")], outside))[:size])
