"""The gRPC server process: load and check the models, serve, and drain before it stops."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import TYPE_CHECKING

from palm_serve.batching import BatchLimits, equal_weight
from palm_serve.batching.thread_priority import shorten_slices
from palm_serve.config import ServeOptions
from palm_serve.engine.cores import usable_cores
from palm_serve.errors import BindError, PalmServeError
from palm_serve.extras import make_http_server, start_tracing
from palm_serve.observability import AccessLog, Metrics, ModelMetrics
from palm_serve.observability.version_metrics import VersionMetrics
from palm_serve.registry import AnswerCache, LoadedModel, Registry, TrafficShares
from palm_serve.registry.remote_options import fetched_bundle, make_watcher
from palm_serve.rpc.access.tokens import Scope, Tokens
from palm_serve.rpc.grpc_server import make_health_server, make_server, make_services
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.load_report import LoadReporter
from palm_serve.rpc.process_end import END_S, EXIT_HUNG, EXIT_REFUSED, end_process, end_process_after
from palm_serve.rpc.transport.connection_limits import ConnectionLimits, warn_of_few_descriptors
from palm_serve.rpc.transport.descriptors import raise_limit
from palm_serve.rpc.transport.listening import Listener, listen
from palm_serve.rpc.transport.tls import Certificates
from palm_serve.system.addresses import browser_url
from palm_serve.types import CallRecord

if TYPE_CHECKING:
    import grpc


log = logging.getLogger(__name__)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_QUIET_S = 0.1
"""Time without a new call after which the traffic counts as drained."""
_MAX_QUIET_WAIT_S = 1.0
"""Limit of the time spent waiting for `_QUIET_S`."""
_LATE_S = 1.5
"""Time after `stop_timeout` for an orderly end."""
_GOAWAY_S = 0.05
"""Time for connections to be told that they take no more calls."""
_FLUSH_S = 0.5
"""Time for computed responses to be written before the connections are closed."""


class Server:
    """One gRPC server and its models. It belongs to the event loop on which it was created.

    Args:
        options: the options of the server.

    Raises:
        TokenFileError: if the file of tokens cannot be used.
        TlsError: if the certificate cannot be used.
        ConfigError: if traces are requested and OpenTelemetry is not installed.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._tokens = None if options.tokens is None else Tokens(options.tokens)
        self._certificates = None if options.tls is None else Certificates(options.tls)
        self._access = AccessLog(options.access_log, options.slow_ms)
        self._metrics = None if options.metrics_port is None and options.http_port is None else Metrics()
        self._tracing = start_tracing(options)
        self.hung = asyncio.Event()
        """Set when a run of the engine cannot be stopped. Only the end of the process helps."""
        loop = asyncio.get_running_loop()
        self._registry = make_registry(
            options, self._metrics, lambda: loop.call_soon_threadsafe(self.hung.set), self._tokens
        )
        self._lifecycle = Lifecycle()
        self._listeners: list[Listener] = []
        self._connections = ConnectionLimits(options)
        if self._metrics is not None:
            self._metrics.registry.register(VersionMetrics(self._registry))
            self._watch_state(self._metrics)
        folder = options.watch or options.model_folder
        self._watcher = None if folder is None else make_watcher(self._registry, folder, options)
        self._watch_task: asyncio.Task[None] | None = None
        load = LoadReporter(lambda: self._registry.engine_busy_s, usable_cores())
        services = make_services(
            self._registry, options, self._lifecycle, self._on_call_end, self._tokens, self._watcher, load
        )
        services.factory.messages.on_reset = self._connections.count_reset
        self._server = make_server(services, options)
        self._http = None
        if options.http_port is not None and self._metrics is not None:
            self._http = make_http_server(services, options, self._certificates, self._metrics.latest)
        self._health_server: grpc.aio.Server | None = None
        if options.health_port is not None:
            self._health_server = make_health_server(
                self._registry, options, self._lifecycle, self._connections.count_reset
            )

    def _watch_state(self, metrics: Metrics) -> None:
        """Publish the gauges of the server's state."""
        metrics.watch(lambda: self._lifecycle.in_flight, lambda: self._lifecycle.state is State.SERVING)
        self._connections.on_refused = metrics.watch_connections(self._connections.open_connections)
        if self._tokens is not None:
            metrics.watch_file("tokens", self._tokens)
        if self._certificates is not None:
            metrics.watch_file("certificate", self._certificates)
            metrics.watch_certificate(lambda: self._current_certificate().expires)

    def _current_certificate(self) -> Certificates:
        """Return the certificate after a check of its files. Any thread may call this."""
        assert self._certificates is not None
        self._certificates.look()
        return self._certificates

    def _serve_metrics(self, metrics: Metrics, port: int) -> None:
        """Serve the metrics over HTTP. Raises BindError."""
        options = self._options
        tokens = self._tokens
        host = options.metrics_host or options.tcp_host

        def check(header: str) -> None:
            assert tokens is not None
            tokens.check([("authorization", header)], Scope.METRICS)

        try:
            metrics.serve(
                port,
                host,
                check if options.metrics_needs_token else None,
                (lambda: self._current_certificate().context) if options.metrics_tls else None,
            )
        except OSError as error:
            raise BindError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from None

    def _on_call_end(self, record: CallRecord) -> None:
        """Trace, count and log a finished call. Tracing comes first because it sets the trace id."""
        if self._tracing is not None:
            self._tracing(record)
        if self._metrics is not None:
            self._metrics(record)
        self._access(record)

    async def bind(self) -> list[str]:
        """Start to listen and return the addresses: that of gRPC, and that of HTTP as a URL. Until `load` has ended, only health checks are answered.

        Raises:
            BindError: if an address cannot be listened on.
        """
        options = self._options
        credentials = None if self._certificates is None else self._certificates.credentials()
        self._listeners.append(
            listen(
                self._server,
                options.host,
                options.port,
                "--port (0: any free one)",
                mode=int(options.socket_mode, 8),
                credentials=credentials,
            )
        )
        if self._health_server is not None and options.health_port is not None:
            self._listeners.append(listen(self._health_server, options.tcp_host, options.health_port, "--health-port"))
            await self._health_server.start()
        if self._metrics is not None and options.metrics_port is not None:
            self._serve_metrics(self._metrics, options.metrics_port)
        await self._server.start()
        http_addresses = []
        if self._http is not None:
            self._listeners.append(self._http.bind())
            await self._http.start()
            http_addresses.append(self._listeners[-1].address)
        self._connections.start(map(attrgetter("local_name"), self._listeners))
        return [self._listeners[0].address, *http_addresses]

    async def load(self) -> list[LoadedModel]:
        """Load and check the bundles, then serve and watch for changes.

        Bundles of a watched directory that cannot be loaded are logged, and the others are served.

        Raises:
            BundleError: if a bundle of the options cannot be loaded.
            StorageError: if a bundle cannot be fetched.
            EngineError: if no execution provider can run it.
        """
        for path in self._options.bundles:
            await self._registry.load(await fetched_bundle(self._options, path))
        for name in self._registry.stable():
            self._registry.assign_start_labels(name)
        if self._watcher is not None and self._options.watch is not None:
            await self._watcher.start()
            self._watch_task = asyncio.create_task(self._watcher.run(self._options.watch_interval))
        self._lifecycle.state = State.SERVING
        return self._registry.list()

    async def _stop_watching(self) -> None:
        if self._watch_task is not None:
            self._watch_task.cancel()
            await asyncio.wait((self._watch_task,))

    async def drain(self) -> None:
        """Report NOT_SERVING, then refuse new calls, then finish running calls within `stop_timeout` seconds."""
        self._lifecycle.state = State.DRAINING
        await self._stop_watching()
        await asyncio.sleep(self._options.drain_grace)
        deadline = time.monotonic() + self._options.stop_timeout
        asyncio.get_running_loop().call_later(self._options.stop_timeout, self._registry.interrupt)
        # A stopping gRPC server cancels calls that it has received but not handed over, and clients do not retry after CANCELLED.
        # So these calls are answered first. If more calls keep arriving, they are refused.
        await self._lifecycle.quiet(_QUIET_S, min(_MAX_QUIET_WAIT_S, self._options.stop_timeout))
        self._lifecycle.state = State.STOPPING
        # A client that asks again at once would never be quiet. Its next call is answered after its connection has been
        # told to take no more calls. So none is under way when the server stops.
        self._lifecycle.hold_calls()
        self._lifecycle.end_streams()
        await self._lifecycle.quiet(_QUIET_S, min(_MAX_QUIET_WAIT_S, deadline - time.monotonic()))
        stopping = asyncio.create_task(self._server.stop(max(0.0, deadline - time.monotonic()) + _FLUSH_S))
        if self._http is not None:
            self._http.drain()
        await asyncio.sleep(_GOAWAY_S)
        self._lifecycle.release_calls()
        idle = asyncio.create_task(self._lifecycle.idle())
        timeout = max(0.0, deadline - time.monotonic())
        await asyncio.wait((stopping, idle), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        self._lifecycle.end_calls()
        # Idle reflection streams would otherwise hold the server until the timeout.
        await self._server.stop(_FLUSH_S)
        await stopping
        idle.cancel()
        await self._close()

    def reload(self) -> None:
        """Reload tokens and certificates now. Without this they are reloaded at their next use."""
        if self._tokens is not None:
            self._tokens.reload()
        if self._certificates is not None:
            self._certificates.look()

    async def abort(self) -> None:
        """Stop at once, for a server that has not served yet."""
        await self._stop_watching()
        await self._server.stop(None)
        self._registry.interrupt()
        await self._close()

    @property
    def load_hung(self) -> bool:
        """True if a load was given up whose thread may go on for ever."""
        return self._registry.hung

    async def refuse(self) -> None:
        """End all calls, for a server whose engine cannot be stopped."""
        self._lifecycle.state = State.STOPPING
        self._lifecycle.end_streams()
        await self._server.stop(None)

    async def _close(self) -> None:
        self._connections.stop()
        if self._http is not None:
            await self._http.stop(_FLUSH_S)
        for listener in self._listeners:
            listener.remove()
        if self._health_server is not None:
            await self._health_server.stop(None)
        await self._registry.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)


async def serve(options: ServeOptions, print_line: Callable[[str], None]) -> None:
    """Run a server until SIGTERM or SIGINT, then drain it. A second signal ends the process at once.

    The process ends with `EXIT_HUNG` if an engine or a load does not end in time, because no thread can be stopped.

    Args:
        options: the options of the server.
        print_line: called with each line of progress.

    Raises:
        PalmServeError: BindError, TlsError, TokenFileError, ConfigError, BundleError or EngineError.
    """
    started = time.monotonic()
    shorten_slices()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_stop_signal() -> None:
        end_process_after(options.drain_grace + options.stop_timeout + _LATE_S, EXIT_HUNG)
        stop.set()
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_stop_signal)
    # Long texts and batches are tokenized on these threads. More threads than cores would slow down the engine.
    loop.set_default_executor(ThreadPoolExecutor(max(2, usable_cores()), "palm-work"))
    raise_limit()
    warn_of_few_descriptors(options)
    server = Server(options)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    stopped = asyncio.create_task(stop.wait())
    hung = asyncio.create_task(server.hung.wait())
    try:
        _print_addresses(await server.bind(), print_line)
        loading = asyncio.create_task(server.load())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            return await server.abort()
        for model in await loading:
            print_line(f"serving {model.name} {model.version[:12]} on {model.info.provider} in {model.info.precision}")
        print_line(f"ready; loading took {time.monotonic() - started:.1f} s")
        await asyncio.wait((stopped, hung), return_when=asyncio.FIRST_COMPLETED)
        if hung.done():
            end_process_after(_LATE_S, EXIT_HUNG)
            await server.refuse()
            end_process(EXIT_HUNG)
        print_line("draining; a second signal ends at once")
        await server.drain()
    except PalmServeError:
        if server.load_hung:
            # The caller prints the error in the meantime.
            end_process_after(END_S, EXIT_REFUSED)
        await server.abort()
        raise
    finally:
        stopped.cancel()
        hung.cancel()


def _print_addresses(addresses: list[str], print_line: Callable[[str], None]) -> None:
    """Print the addresses of gRPC and HTTP, and the one to open in a browser."""
    for address in addresses:
        print_line(f"listening on {address}")
    for url in addresses[1:]:
        print_line(f"playground at {browser_url(url)}")


def make_registry(
    options: ServeOptions,
    metrics: Metrics | None = None,
    on_hung: Callable[[], object] = lambda: None,
    tokens: Tokens | None = None,
) -> Registry:
    """Create the registry of the options.

    Args:
        options: the options of the server.
        metrics: updated by the models. None: there are no metrics.
        on_hung: called in another thread when a run of the engine cannot be stopped.
        tokens: access tokens, which may give clients a weight. None: all have the same.
    """

    def observe(name: str, version: str) -> ModelMetrics:
        assert metrics is not None
        metrics.forget({*registry.statistics(), (name, version)})
        return metrics.for_model(name, version)

    registry = Registry(
        provider=options.provider,
        precision=options.precision,
        threads=options.threads,
        nice=options.engine_nice,
        trust=options.trust,
        allow_unproven=options.allow_unproven,
        cache=options.cache_dir,
        load_limit_s=options.load_timeout,
        run_limit_s=options.engine_timeout,
        on_hung=on_hung,
        client_weight=equal_weight if tokens is None else tokens.client_weight,
        trials=True,
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
