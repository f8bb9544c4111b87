"""Model files: fetched, verified, in their place."""
