"""Which samples stand for the data: clusters, inducing points, densities, and how a subset differs from the whole."""
