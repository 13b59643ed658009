"""Answers the rows of any source of Ray Data. For files, `palm-serve batch --engine ray` is simpler, and goes on where it was ended.

    python examples/ray_data.py BUNDLE INPUT.parquet OUTPUT [--workers 2]

Run it on a machine of the cluster: RAY_ADDRESS=HOST:PORT names it. All machines need the extras `ray` and `serve`, and see the same files.
"""

import argparse

import ray

from palm_serve.batch import Answerer

BLOCKS_PER_WORKER = 8


def main() -> None:
    """Read the rows, answer them in actors that each hold the bundle, and write the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("input", help="Parquet with a column `text`")
    parser.add_argument("output", help="folder of the answers")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    ray.init()
    rows = ray.data.read_parquet(arguments.input)
    # Short texts are small blocks, which Ray merges: one worker would answer all of them, and write nothing until the end.
    rows = rows.repartition(BLOCKS_PER_WORKER * arguments.workers)
    # A path, no bytes: what lies in the object store is lost with its machine.
    answers = rows.map_batches(
        Answerer,
        fn_constructor_args=[arguments.bundle],
        fn_constructor_kwargs={"threads": 1},
        batch_format="pyarrow",
        batch_size=256,
        num_cpus=0.5,  # the tasks that read and write need CPUs beside the workers, or Ray waits without a word
        concurrency=arguments.workers,
    )
    answers.write_parquet(arguments.output)
    print(f"{ray.data.read_parquet(arguments.output).count():,} rows in {arguments.output}")


if __name__ == "__main__":
    main()
