"""Moving bytes between local sockets and a link: ingress, pump, streams, link, egress."""
