"""The gRPC services of palm_serve.v1, grpc.health.v1 and grpc.channelz.v1."""
