"""The composition root: load, verify, warm up, serve, drain."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import start_http_server

from palm_serve.batching import BatchLimits
from palm_serve.config import ServeOptions
from palm_serve.errors import BindError, PalmServeError
from palm_serve.observability import Metrics
from palm_serve.registry import CANARY, SHADOW, STABLE, LoadedModel, Registry, Traffic, Watcher
from palm_serve.rpc.auth import Tokens
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.services import make_server
from palm_serve.rpc.tls import Certificates
from palm_serve.version_metrics import VersionMetrics

log = logging.getLogger(__name__)

_FLUSH_S = 0.5
"""What answers that are computed get to reach the wire before the connections are closed."""


class Server:
    """One gRPC server and its models. Belongs to the event loop that it was made on. Raises TokenFileError."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._tokens = None if options.tokens is None else Tokens(options.tokens)
        self._metrics = None if options.metrics_port is None else Metrics()
        self._registry = make_registry(options, self._metrics)
        if self._metrics is not None:
            self._metrics.registry.register(VersionMetrics(self._registry))
        self._lifecycle = Lifecycle()
        observe = None if self._metrics is None else self._metrics.answered
        folder = options.watch or options.model_folder
        self._watcher = None if folder is None else Watcher(self._registry, folder)
        self._watching: asyncio.Task[None] | None = None
        self._server = make_server(self._registry, options, self._lifecycle, observe, self._tokens, self._watcher)

    async def bind(self) -> str:
        """Listens and returns the address. While models load, health is answered and all else is UNAVAILABLE.

        Raises BindError, TlsError.
        """
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        address = f"{host}:{self._options.port}"
        listen = self._server.add_insecure_port
        if self._options.tls is not None:
            listen = partial(
                self._server.add_secure_port, server_credentials=Certificates(self._options.tls).credentials()
            )
        try:
            port = listen(address)
        except RuntimeError:
            raise BindError(
                f"cannot listen on {address}: the port is in use or not allowed, or the host is not "
                "this machine's; choose another --port (0: any free one) or --host"
            ) from None
        if self._metrics is not None and self._options.metrics_port is not None:
            try:
                start_http_server(self._options.metrics_port, self._options.host, self._metrics.registry)
            except OSError as error:
                raise BindError(
                    f"cannot serve metrics on {host}:{self._options.metrics_port}: {error.strerror}"
                ) from None
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
        stopping = asyncio.create_task(self._server.stop(self._options.stop_timeout))
        self._lifecycle.end_streams()
        idle = asyncio.create_task(self._lifecycle.idle())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        # Reflection streams are nobody's work and would hold the server until the timeout.
        await self._server.stop(max(0.0, min(_FLUSH_S, deadline - time.monotonic())))
        await stopping
        idle.cancel()
        await self._registry.close()

    def reload(self) -> None:
        """Reads the tokens again, at once; certificates are looked at before every connection anyway."""
        if self._tokens is not None:
            self._tokens.reload()

    async def abort(self) -> None:
        """Stops at once, for a server that never served."""
        await self._stop_watching()
        await self._server.stop(None)
        await self._registry.close()


async def serve(options: ServeOptions, tell: Callable[[str], None]) -> None:
    """Runs a server until SIGTERM or SIGINT; `tell` gets lines for a person.

    Raises BindError, TlsError, TokenFileError, BundleError, EngineError.
    """
    began = time.monotonic()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
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
        tell("draining")
        await server.drain()
    except PalmServeError:
        await server.abort()
        raise
    finally:
        stopped.cancel()


def make_registry(options: ServeOptions, metrics: Metrics | None = None) -> Registry:
    """The registry that the options ask for."""
    return Registry(
        provider=options.provider,
        precision=options.precision,
        threads=options.threads,
        cache=options.cache_dir,
        limits=BatchLimits(max_waiting=options.max_queue),
        observe=None if metrics is None else metrics.for_model,
        traffic=lambda name: Traffic(*options.traffic(name)),
    )


def label_extras(registry: Registry, name: str) -> None:
    """Of several versions of a name that were given at the start, the second is the canary and the next the shadow, where these have a share."""
    traffic = registry.shares()[name]
    labels = [label for label, share in ((CANARY, traffic.canary), (SHADOW, traffic.shadow)) if share]
    stable, *others = (model for model in registry.list() if model.name == name)
    registry.assign(name, {STABLE: stable, **dict(zip(labels, others, strict=False))})
