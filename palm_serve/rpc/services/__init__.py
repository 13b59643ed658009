"""The gRPC services of palm_serve.v1, health and channelz."""
