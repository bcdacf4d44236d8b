"""Reach or run a Ray cluster: connection, authentication, ports, submission."""
