"""What comes from outside comes once: a cache for the hosts of a LAN, of packages, container images and models."""
