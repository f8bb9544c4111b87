"""Look at hosts, change nothing: what they are made of and which tags would fit."""
