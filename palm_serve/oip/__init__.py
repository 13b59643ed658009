"""Messages and stubs of the Open Inference Protocol v2, generated from protos/palm_serve/oip/inference.proto by `make protos`. Do not edit."""
