"""Connect and do nothing: what is left of a run when nothing is declared."""
