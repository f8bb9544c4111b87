"""Refuse a host that cannot become what the inventory says, before anything on it is changed."""
