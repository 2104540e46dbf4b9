"""t-SNE (van der Maaten & Hinton 2008) by scikit-learn, which is not needed for anything else."""

from __future__ import annotations

from importlib.util import find_spec

from drb.types import Float64Array


def require_tsne(who: str) -> None:
    """Raise ValueError if scikit-learn is not installed. who: what needs it, such as an option with its value."""
    if find_spec("sklearn") is None:
        raise ValueError(f"{who} needs scikit-learn, which is not installed: pip install 'drb-train[train]'")


def tsne(points: Float64Array, seed: int) -> Float64Array:
    """Return a map of points [n, D] on two dimensions: float64 [n, 2]. The same seed gives the same map."""
    from sklearn.manifold import TSNE

    if len(points) < 3:
        return points[:, :2].copy()
    maker = TSNE(perplexity=min(30.0, (len(points) - 1) / 3), init="pca", random_state=seed % (1 << 32), n_jobs=1)
    placed: Float64Array = maker.fit_transform(points).astype("float64")
    return placed
