"""The service around the relay: configuration, lifetime, control socket."""
