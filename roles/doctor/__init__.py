"""Look at what a host would fetch from, change nothing: whether it can, how fast, and whose bytes they are."""
