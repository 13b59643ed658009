"""Connections: TLS, certificates and channel options."""
