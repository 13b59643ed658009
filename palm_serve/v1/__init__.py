"""Messages and stubs of the gRPC API, generated from protos/palm_serve/v1/palm.proto by `make protos`. Do not edit."""
