"""The composition root: load, verify, warm up, serve, drain."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from palm_serve.batching import BatchLimits
from palm_serve.config import ServeOptions
from palm_serve.engine.cores import usable_cores
from palm_serve.errors import BindError, ConfigError, PalmServeError
from palm_serve.observability import AccessLog, Metrics, ModelMetrics, traces_requested
from palm_serve.observability.version_metrics import VersionMetrics
from palm_serve.registry import CANARY, SHADOW, STABLE, AnswerCache, LoadedModel, Registry, TrafficShares, Watcher
from palm_serve.rpc.access.tokens import Scope, Tokens
from palm_serve.rpc.grpc_server import make_health_server, make_server
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.transport.tls import Certificates
from palm_serve.types import CallRecord

if TYPE_CHECKING:
    from palm_serve.observability.tracing import Tracing

log = logging.getLogger(__name__)

_ENDING = (signal.SIGTERM, signal.SIGINT)
_QUIET_S, _LULL_S = 0.1, 1.0
"""How long nobody must have come before the connections are closed, and how long that is waited for."""
_FLUSH_S = 0.5
"""What answers that are computed get to reach the wire before the connections are closed."""


class Server:
    """One gRPC server and its models. Belongs to the event loop that it was made on. Raises TokenFileError, TlsError, ConfigError."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._tokens = None if options.tokens is None else Tokens(options.tokens)
        self._certificates = None if options.tls is None else Certificates(options.tls)
        self._access = AccessLog(options.access_log, options.slow_ms)
        self._metrics = None if options.metrics_port is None else Metrics()
        self._tracing = start_tracing(options)
        self._registry = make_registry(options, self._metrics)
        self._lifecycle = Lifecycle()
        if self._metrics is not None:
            self._metrics.registry.register(VersionMetrics(self._registry))
            self._metrics.watch(lambda: self._lifecycle.in_flight, lambda: self._lifecycle.state is State.SERVING)
            if self._tokens is not None:
                self._metrics.watch_file("tokens", self._tokens)
            if self._certificates is not None:
                self._metrics.watch_file("certificate", self._certificates)
                self._metrics.watch_certificate(lambda: self._certificate().expires)
        folder = options.watch or options.model_folder
        self._watcher = None if folder is None else Watcher(self._registry, folder)
        self._watching: asyncio.Task[None] | None = None
        self._server = make_server(self._registry, options, self._lifecycle, self._ended, self._tokens, self._watcher)
        self._health = (
            None if options.health_port is None else make_health_server(self._registry, options, self._lifecycle)
        )

    def _certificate(self) -> Certificates:
        """As the files are now. From any thread."""
        assert self._certificates is not None
        self._certificates.look()
        return self._certificates

    def _publish(self, metrics: Metrics, port: int) -> None:
        """Serves metrics. Raises BindError."""
        options, tokens = self._options, self._tokens
        host = options.metrics_host or options.host

        def check(header: str) -> None:
            assert tokens is not None
            tokens.check([("authorization", header)], Scope.METRICS)

        try:
            metrics.serve(
                port,
                host,
                check if options.metrics_needs_token else None,
                (lambda: self._certificate().context) if options.metrics_tls else None,
            )
        except OSError as error:
            raise BindError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from None

    def _ended(self, record: CallRecord) -> None:
        """A call has ended. Traces come first: they know the id of the trace."""
        if self._tracing is not None:
            self._tracing(record)
        if self._metrics is not None:
            self._metrics(record)
        self._access(record)

    async def bind(self) -> str:
        """Listens and returns the address. While models load, health is answered and all else is UNAVAILABLE.

        Raises BindError.
        """
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        listen = self._server.add_insecure_port
        if self._certificates is not None:
            listen = partial(self._server.add_secure_port, server_credentials=self._certificates.credentials())
        port = _listen(listen, f"{host}:{self._options.port}", "--port (0: any free one)")
        if self._health is not None:
            _listen(self._health.add_insecure_port, f"{host}:{self._options.health_port}", "--health-port")
            await self._health.start()
        if self._metrics is not None and self._options.metrics_port is not None:
            self._publish(self._metrics, self._options.metrics_port)
        await self._server.start()
        return f"{host}:{port}"

    async def load(self) -> list[LoadedModel]:
        """Loads, verifies and warms up the bundles, then serves and watches. Raises BundleError, EngineError.

        What cannot be loaded of a watched directory is logged, and the rest is served.
        """
        for path in self._options.bundles:
            await self._registry.load(path)
        for name in self._registry.stable():
            label_extras(self._registry, name)
        if self._watcher is not None and self._options.watch is not None:
            await self._watcher.start()
            self._watching = asyncio.create_task(self._watcher.run(self._options.watch_interval))
        self._lifecycle.state = State.SERVING
        return self._registry.list()

    async def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    async def drain(self) -> None:
        """Not-serving first, then no new calls, then what runs is finished (or cancelled after `stop_timeout` seconds)."""
        self._lifecycle.state = State.DRAINING
        await self._stop_watching()
        await asyncio.sleep(self._options.drain_grace)
        deadline = time.monotonic() + self._options.stop_timeout
        # gRPC cancels what it has taken in and not handed over when it is stopped, and nobody asks again after CANCELLED. So what has
        # come is answered first, and where more comes all the time, refused.
        await self._lifecycle.quiet(_QUIET_S, min(_LULL_S, self._options.stop_timeout))
        self._lifecycle.state = State.STOPPING
        self._lifecycle.end_streams()
        await self._lifecycle.quiet(_QUIET_S, min(_LULL_S, deadline - time.monotonic()))
        stopping = asyncio.create_task(self._server.stop(max(0.0, deadline - time.monotonic())))
        idle = asyncio.create_task(self._lifecycle.idle())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        # Reflection streams are nobody's work and would hold the server until the timeout.
        await self._server.stop(max(0.0, min(_FLUSH_S, deadline - time.monotonic())))
        await stopping
        idle.cancel()
        await self._close()

    def reload(self) -> None:
        """Reads tokens and certificates again, at once; they are looked at before they are used anyway."""
        if self._tokens is not None:
            self._tokens.reload()
        if self._certificates is not None:
            self._certificates.look()

    async def abort(self) -> None:
        """Stops at once, for a server that never served."""
        await self._stop_watching()
        await self._server.stop(None)
        await self._close()

    async def _close(self) -> None:
        if self._health is not None:
            await self._health.stop(None)
        await self._registry.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)


async def serve(options: ServeOptions, tell: Callable[[str], None]) -> None:
    """Runs a server until SIGTERM or SIGINT, drains it, and returns; a second signal ends the process at once. `tell` gets lines for a person.

    Raises BindError, TlsError, TokenFileError, ConfigError, BundleError, EngineError.
    """
    began = time.monotonic()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        stop.set()
        for number in _ENDING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _ENDING:
        loop.add_signal_handler(number, begin_to_stop)
    # Long texts and batches are tokenized there: threads beyond the cores would only take them from the engine.
    loop.set_default_executor(ThreadPoolExecutor(max(2, usable_cores()), "palm-work"))
    server = Server(options)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    stopped = asyncio.create_task(stop.wait())
    try:
        tell(f"listening on {await server.bind()}")
        loading = asyncio.create_task(server.load())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            return await server.abort()
        for model in await loading:
            tell(f"serving {model.name} {model.version[:12]} on {model.info.provider} in {model.info.precision}")
        tell(f"ready; loading took {time.monotonic() - began:.1f} s")
        await stopped
        tell("draining; a second signal ends at once")
        await server.drain()
    except PalmServeError:
        await server.abort()
        raise
    finally:
        stopped.cancel()


def _listen(listen: Callable[[str], int], address: str, option: str) -> int:
    try:
        return listen(address)
    except RuntimeError:
        raise BindError(
            f"cannot listen on {address}: the port is in use or not allowed, or the host is not "
            f"this machine's; choose another {option} or --host"
        ) from None


def make_registry(options: ServeOptions, metrics: Metrics | None = None) -> Registry:
    """The registry that the options ask for."""

    def observe(name: str, version: str) -> ModelMetrics:
        assert metrics is not None
        metrics.forget({*registry.statistics(), (name, version)})
        return metrics.for_model(name, version)

    registry = Registry(
        provider=options.provider,
        precision=options.precision,
        threads=options.threads,
        nice=options.engine_nice,
        cache=options.cache_dir,
        limits=BatchLimits(max_waiting=options.max_queue),
        make_observer=None if metrics is None else observe,
        default_traffic=lambda name: TrafficShares(*options.traffic(name)),
        make_answer_cache=lambda statistics: (
            AnswerCache(options.keep_answers, options.share_runs, statistics)
            if options.keep_answers or options.share_runs
            else None
        ),
    )
    return registry


def start_tracing(options: ServeOptions) -> "Tracing | None":
    """None: nothing asks for traces. Raises ConfigError where they are asked for by option and cannot be had."""
    if options.otel_endpoint is None and not traces_requested(os.environ):
        return None
    try:
        from palm_serve.observability.tracing import Tracing

        return Tracing(options.otel_endpoint)
    except ImportError as error:
        missing = f"traces need OpenTelemetry, and {error.name} is not installed: pip install 'palm-nlu[otel]'"
        if options.otel_endpoint is not None:
            raise ConfigError(f"--otel-endpoint: {missing}") from None
        # Platforms set these variables for everything that they start.
        log.warning("the environment asks for traces, but %s", missing)
        return None


def label_extras(registry: Registry, name: str) -> None:
    """Of several versions of a name that were given at the start, the second is the canary and the next the shadow, where these have a share."""
    traffic = registry.shares()[name]
    labels = [label for label, share in ((CANARY, traffic.canary), (SHADOW, traffic.shadow)) if share]
    stable, *others = (model for model in registry.list() if model.name == name)
    registry.assign(name, {STABLE: stable, **dict(zip(labels, others, strict=False))})
