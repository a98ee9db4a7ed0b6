"""Sockets and TLS: lanes, identities, and what this host's kernel can do."""
