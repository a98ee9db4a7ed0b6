"""A private certificate authority and host certificates."""
