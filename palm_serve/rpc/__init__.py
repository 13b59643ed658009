"""gRPC server: services, call handling, access control, message conversion and transport."""
