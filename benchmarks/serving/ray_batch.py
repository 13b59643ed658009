"""`palm-serve batch --engine ray` with a killed worker and a killed driver, beside `--engine local`: are all rows there, and the bytes equal?

    python benchmarks/serving/ray_batch.py BUNDLE --python PYTHON [--rows 20000] [--part-rows 500] [--workers 2] [--json FILE]

PYTHON is the interpreter of an environment with `pip install -c constraints.txt 'palm-nlu[serve,ray]'`. A cluster of two machines runs in
network namespaces. A worker is killed when a tenth of the parts is there, the driver when half of them are; then the same command runs
again. Exit code 1 unless each row is there once and each part has the bytes of the run on one machine.
"""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from processes import chosen_texts, finish, options
from ray_cluster import ADDRESS, HEAD, Cluster

_LOOK_S = 0.1


def wait_for_parts(output: Path, count: int, process: object) -> None:
    """Waits until a folder holds some parts."""
    while len(list(output.glob("*.parquet"))) < count:
        if process.poll() is not None:  # type: ignore[attr-defined]
            raise SystemExit(f"the run ended before {count} parts were there")
        time.sleep(_LOOK_S)


def main() -> None:
    """Runs both engines and compares the parts."""
    parser = options(__doc__ or "", rows=20_000, workers=2)
    parser.add_argument("--part-rows", type=int, default=500, help="default: 500")
    parser.add_argument("--python", type=Path, required=True, help="interpreter of an environment with Ray")
    arguments = parser.parse_args()
    texts = chosen_texts(arguments)
    parts = -(-arguments.rows // arguments.part_rows)
    with Cluster(arguments.python.absolute()) as cluster:
        source, local, output = (cluster.folder / name for name in ("in.parquet", "local", "out"))
        table = pa.table(
            {"id": range(arguments.rows), "text": [texts[row % len(texts)] for row in range(arguments.rows)]}
        )
        pq.write_table(table, source, row_group_size=arguments.part_rows)
        bundle = ("--bundle", arguments.bundle.resolve(), "--provider", arguments.provider, "--threads", "1")
        command = ("-m", "palm_serve.cli", "batch", source)
        began = time.monotonic()
        cluster.check(HEAD, *command, local, *bundle)
        local_s = time.monotonic() - began

        began = time.monotonic()
        on_ray = (
            *command,
            output,
            *bundle,
            "--engine",
            "ray",
            "--address",
            ADDRESS,
            "--workers",
            str(arguments.workers),
        )
        driver = cluster.start(HEAD, *on_ray)
        wait_for_parts(output, parts // 10, driver)
        os.kill(cluster.pids("ray::_Worker")[0], signal.SIGKILL)
        wait_for_parts(output, parts // 2, driver)
        cluster.stop(driver)
        kept = len(list(output.glob("*.parquet")))
        cluster.check(HEAD, *on_ray)
        ray_s = time.monotonic() - began

        files = sorted(local.iterdir())
        different = [file.name for file in files if (output / file.name).read_bytes() != file.read_bytes()]
        ids = [row for file in sorted(output.glob("*.parquet")) for row in pq.read_table(file)["id"].to_pylist()]
        complete = ids == list(range(arguments.rows))
    rows = [
        ("rows, each once", f"{len(ids):,}: {'yes' if complete else 'no'}", "yes"),
        ("parts with other bytes", f"{len(different)} of {parts}", "0"),
        ("parts that the killed driver had left", str(kept), ""),
        ("rows/s, one process, start included", f"{arguments.rows / local_s:,.0f}", ""),
        ("rows/s, Ray, with both kills and two starts", f"{arguments.rows / ray_s:,.0f}", ""),
    ]
    figures = {"rows": len(ids), "complete": complete, "different": different, "local_s": local_s, "ray_s": ray_s}
    finish(arguments, rows, figures)
    raise SystemExit(0 if complete and not different else 1)


if __name__ == "__main__":
    main()
