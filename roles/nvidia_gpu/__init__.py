"""NVIDIA's driver for the declared cards: the right branch, held together, proven by nvidia-smi."""
