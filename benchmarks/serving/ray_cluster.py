"""A Ray cluster of two machines on this one: two network namespaces with a wire between them, and no way out.

`ray start --node-ip-address` listens on all addresses, whatever it is told, and its ports have no authentication. So it runs
where nobody else can reach it. All its processes are in one namespace of processes, and end with this one.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HEAD, NODE = "10.77.0.1", "10.77.0.2"
ADDRESS = f"{HEAD}:6379"
PORT = 50051
"""Port of Ray's gRPC ingress on both machines."""
_LIMIT_S = 600
_MEMORY = 200_000_000
"""Bytes of an object store. Nothing here puts objects there."""
_INIT = "import signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nprint(flush=True)\nsys.stdin.read()"
"""The first process of a namespace. It leaves no zombies, and ends, with all others there, when this process ends."""


def missing() -> str:
    """Return what a cluster needs that this machine lacks. Empty: nothing."""
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"the program {program} is not installed"
    done = subprocess.run([*_unshare(), "true"], capture_output=True, text=True)
    return f"namespaces cannot be made: {done.stderr.strip()}" if done.returncode else ""


class Cluster:
    """The cluster. `with Cluster(python, cpus=2)` starts both machines.

    Args:
        python: interpreter of an environment with palm-nlu's requirements and Ray.
        cpus: CPUs that each machine offers.
    """

    def __init__(self, python: Path, cpus: int = 2) -> None:
        self._python = python
        self._cpus = cpus
        # Below /tmp, because the path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._holders: list[subprocess.Popen[str]] = []
        self._nets: dict[str, str] = {}
        self._first = ""

    def __enter__(self) -> "Cluster":
        try:
            self._first = self._hold([*_unshare(), sys.executable, "-c", _INIT])
            self._nets[HEAD] = self._first
            command = [*self._enter(self._first, "--mount", "--pid"), "unshare", "--net", sys.executable, "-c", _INIT]
            self._nets[NODE] = self._hold(command)
            self._wire()
            start = [
                "-m",
                "ray.scripts.scripts",
                "start",
                f"--num-cpus={self._cpus}",
                f"--object-store-memory={_MEMORY}",
            ]
            start.append("--disable-usage-stats")
            head = ["--head", f"--node-ip-address={HEAD}", "--port=6379", "--include-dashboard=false"]
            self.check(HEAD, *start, *head, f"--temp-dir={self.folder / 'a'}")
            self.check(NODE, *start, f"--address={ADDRESS}", f"--node-ip-address={NODE}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes of the cluster."""
        for holder in reversed(self._holders):
            holder.kill()
            holder.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, machine: str, *arguments: str | Path, **options: Any) -> "subprocess.Popen[str]":
        """Start a command of the cluster's Python.

        Args:
            machine: HEAD or NODE.
            arguments: those of the interpreter.
            options: those of `subprocess.Popen`.
        """
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = self._in(machine, self._python, *arguments)
        return subprocess.Popen(command, cwd=self.folder, env=self._environment(), **(pipes | options))

    def stop(self, process: "subprocess.Popen[str]") -> None:
        """End a command of `start`. What was started is a child of nsenter, which does not end it."""
        if process.poll() is None:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        process.communicate()

    def check(self, machine: str, *arguments: str | Path) -> str:
        """Run a command of the cluster's Python and return its output. Raises RuntimeError if it fails.

        Args:
            machine: HEAD or NODE.
            arguments: those of the interpreter.
        """
        command = self._in(machine, self._python, *arguments)
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=_LIMIT_S
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}\n{done.stderr}")
        return done.stdout

    def serve(self, bundle: Path, *arguments: str) -> None:
        """Start the ingress on both machines, and the application.

        Args:
            bundle: the bundle.
            arguments: arguments of the application.
        """
        serve = ("-m", "ray.serve.scripts")
        functions = ("--grpc-servicer-functions", "palm_serve.ray.add_services", "--grpc-disable-reflection")
        start = (HEAD, *serve, "start", "--address", ADDRESS, "--grpc-port", str(PORT), *functions)
        try:
            self.check(*start)
        except RuntimeError:
            self.check(*start)  # Ray waits 60 s for the proxies, and the second time they are there
        run = ("run", "--non-blocking", "--address", ADDRESS, "palm_serve.ray:app")
        self.check(HEAD, *serve, *run, f"bundle={bundle}", *arguments)

    def pids(self, title: str, machine: str = "") -> list[int]:
        """Return processes of the cluster, as this machine counts them.

        Args:
            title: text that their command line contains.
            machine: HEAD or NODE. Empty: those of both machines.
        """
        found = []
        # Both machines share the namespace of processes.
        kind, holder = ("net", self._nets[machine]) if machine else ("pid", self._first)
        space = os.readlink(f"/proc/{holder}/ns/{kind}")
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    same = os.readlink(entry / "ns" / kind) == space
                    if same and title in (entry / "cmdline").read_bytes().decode(errors="replace"):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return sorted(found)

    def kill(self, machine: str) -> None:
        """End all processes of a machine at once. The machine does not come back.

        Args:
            machine: NODE. Without HEAD the cluster ends.
        """
        holder = int(self._nets[machine])
        for pid in self.pids("", machine):
            if pid != holder:
                with suppress(ProcessLookupError):  # ended with its parent
                    os.kill(pid, signal.SIGKILL)

    def _in(self, machine: str, *command: str | Path) -> list[str]:
        entry = self._enter(self._first, "--mount", "--pid", f"--net=/proc/{self._nets[machine]}/ns/net")
        return [*entry, *map(str, command)]

    def _enter(self, pid: str, *spaces: str) -> list[str]:
        users = ("--user", "--preserve-credentials") if os.geteuid() else ()
        return ["nsenter", "--target", pid, *users, *spaces]

    def _hold(self, command: Sequence[str]) -> str:
        """Start the first process of a namespace, and return its id."""
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._holders.append(holder)
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise RuntimeError(f"{command} ended with {holder.wait()}")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        return children[0]

    def _wire(self) -> None:
        """Connect both network namespaces."""
        ends = ((HEAD, "wire0"), (NODE, "wire1"))
        first = [*self._enter(self._first, "--net"), "ip"]
        peer = ["type", "veth", "peer", "name", "wire1", "netns", self._nets[NODE]]
        subprocess.run([*first, "link", "add", "wire0", *peer], check=True)
        for machine, device in ends:
            ip = [*self._enter(self._first, f"--net=/proc/{self._nets[machine]}/ns/net"), "ip"]
            subprocess.run([*ip, "addr", "add", f"{machine}/24", "dev", device], check=True)
            subprocess.run([*ip, "link", "set", "lo", "up"], check=True)
            subprocess.run([*ip, "link", "set", device, "up"], check=True)

    def _environment(self) -> dict[str, str]:
        own = self.folder / "h"  # Ray adds the node to each path, which has at most 97 bytes
        switches = {
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray kills proxies that take longer to start, as all do on a machine with other work.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{self._python.parent}:{os.environ['PATH']}",
        }
        dropped = ("PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS")
        return {name: value for name, value in os.environ.items() if name not in dropped} | switches


def _unshare() -> list[str]:
    users = ["--user", "--map-root-user"] if os.geteuid() else []
    return ["unshare", *users, "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
