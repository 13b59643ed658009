# syntax=docker/dockerfile:1
# The serving image: palm-nlu[serve,otel], no torch, no compiler, no root.
#   docker build -t palm-serve .                       CPU
#   docker build -t palm-serve:gpu --target gpu .      CUDA and TensorRT; run with --gpus all
#   docker run --read-only -p 50051:50051 -v ./bundles/demo:/bundle:ro palm-serve
# What follows the image's name replaces the last line: run /models/a /models/b --host 0.0.0.0 ... Every option is an
# environment variable, too: -e PALM_SERVE_TOKENS=/run/secrets/tokens.toml; `palm-serve run --help` lists them.
# Nothing is written: --read-only --cap-drop ALL --security-opt no-new-privileges need no exception.

# python:3.11-slim. A newer one: docker buildx imagetools inspect python:3.11-slim --format '{{.Manifest.Digest}}'
ARG BASE=python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7

# Every package is installed by its SHA-256; PALM's own wheel is built here, with a build tool that is, too.
FROM ${BASE} AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.lock \
    && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m venv /opt/palm

FROM build AS build-cpu
RUN /opt/palm/bin/pip install --no-cache-dir --require-hashes -r requirements/serve.lock \
    && /opt/palm/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM build AS build-gpu
RUN /opt/palm/bin/pip install --no-cache-dir --require-hashes -r requirements/serve-gpu.lock \
    && /opt/palm/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM ${BASE} AS runtime
RUN groupadd --system --gid 10001 palm && useradd --system --uid 10001 --gid palm --no-create-home palm
ENV PATH=/opt/palm/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1
# By number: Kubernetes cannot tell that a name is not root (runAsNonRoot).
USER 10001:10001
EXPOSE 50051
# Asks the port of the environment, or 50051. With TLS set PALM_SERVE_HEALTH_PORT, too, which is answered without;
# a server whose ports are options of the command line needs a --health-cmd of its own: palm-serve health HOST:PORT ...
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["palm-serve", "health"]
ENTRYPOINT ["palm-serve"]
CMD ["run", "/bundle", "--host", "0.0.0.0"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/palm /opt/palm

FROM runtime AS cpu
COPY --from=build-cpu /opt/palm /opt/palm
