"""Processor time of a call through Ray Serve's HAProxy ingress beside `palm-serve run` alone.

    python benchmarks/serving/ray_serve.py BUNDLE --python PYTHON [--rounds 3] [--seconds 7] [--concurrency 32] [--threads 1] [--json FILE]

PYTHON is the interpreter of an environment with `pip install -c constraints.txt 'palm-nlu[serve,ray]'`. A cluster of its own runs in
network namespaces, with one replica; the server runs on the machine of the ingress. Rounds alternate between both, in closed loops.
Counted are the processes that a call passes: replica and HAProxy, or the server. Printed: milliseconds per answered call of both,
and their ratio per round (goal: at most 1.25).
"""

import json
import subprocess
import time
from pathlib import Path

from processes import finish, middle, options, usage
from ray_cluster import HEAD, PORT, Cluster

_OWN_PORT = 50060
_GOAL = 1.25


def cost_ms(cluster: Cluster, port: int, titles: tuple[str, ...], concurrency: int, seconds: float) -> float:
    """Milliseconds of processor time that processes with some titles spend on an answered call.

    Args:
        cluster: where they run.
        port: port to call.
        titles: parts of their command lines.
        concurrency: callers.
        seconds: length of the load.
    """
    report_file = cluster.folder / "report.json"
    pids = [pid for title in titles for pid in cluster.pids(title)]
    before = sum(usage(pid).cpu_s for pid in pids)
    command = ("-m", "palm_serve.cli", "bench", f"{HEAD}:{port}", "--concurrency", str(concurrency), "--warm-up", "0")
    cluster.check(HEAD, *command, "--duration", str(seconds), "--deadline", "30", "--json", report_file)
    spent_s = sum(usage(pid).cpu_s for pid in pids) - before
    report = json.loads(report_file.read_text())
    return 1000 * spent_s / (report["answered"] * seconds)


def main() -> None:
    """Runs the rounds and prints the figures."""
    parser = options(__doc__ or "", rounds=3, seconds=7.0, concurrency=32, threads=1)
    parser.add_argument("--python", type=Path, required=True, help="interpreter of an environment with Ray")
    arguments = parser.parse_args()
    bundle = arguments.bundle.resolve()
    doors: dict[str, list[float]] = {"palm-serve": [], "Ray": []}
    with Cluster(arguments.python.absolute()) as cluster:
        cluster.serve(bundle, f"threads={arguments.threads}", f"provider={arguments.provider}")
        own = ("-m", "palm_serve.cli", "run", bundle, "--host", HEAD, "--port", str(_OWN_PORT))
        options_of_server = ("--threads", str(arguments.threads), "--provider", arguments.provider)
        server = cluster.start(HEAD, *own, *options_of_server, stderr=subprocess.STDOUT)
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "ready;" in line:
                break
        else:
            raise SystemExit(f"the server did not start: {''.join(lines)}")
        paths = {
            "palm-serve": (_OWN_PORT, ("palm_serve.cli\0run",)),
            "Ray": (PORT, ("ray::ServeReplica:default:Palm", "haproxy\0")),
        }
        for port, titles in paths.values():
            cost_ms(cluster, port, titles, arguments.concurrency, 1.0)
        for number in range(arguments.rounds):
            for name in sorted(paths, reverse=bool(number % 2)):
                port, titles = paths[name]
                doors[name].append(cost_ms(cluster, port, titles, arguments.concurrency, arguments.seconds))
                time.sleep(1.0)
        cluster.stop(server)
    ratios = [through / alone for through, alone in zip(doors["Ray"], doors["palm-serve"], strict=True)]
    rows = [
        ("palm-serve run, ms of processor a call", middle(doors["palm-serve"]), ""),
        ("Ray Serve behind HAProxy, ms of processor a call", middle(doors["Ray"]), ""),
        ("ratio", middle(ratios), f"{_GOAL}"),
    ]
    finish(arguments, rows, {"milliseconds": doors, "ratios": ratios, "concurrency": arguments.concurrency})


if __name__ == "__main__":
    main()
