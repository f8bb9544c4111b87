"""A kernel that drives the host's cards, booted as a trial first."""
