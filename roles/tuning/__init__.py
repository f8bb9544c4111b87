"""Kernel settings that suit large models: memory maps, swapping, huge pages, clock speed."""
