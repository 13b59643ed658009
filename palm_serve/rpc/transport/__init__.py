"""TLS, certificates and channel options of the server."""
