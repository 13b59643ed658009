"""The gRPC door: bytes in, messages out. The server's only importer of grpc; it knows no engine and no tokenizer."""
