"""Role ray: one node of a Ray cluster, over which an engine spreads one model."""
