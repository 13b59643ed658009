"""Answer the rows of Parquet files of any size in one process, a batch of rows after the other.

    python examples/parquet_batch.py bundles/demo texts.parquet answers.parquet

The input is a file or a folder with a column `text`. The output has its other columns, those of the tasks, `error` and `version`.
`palm-serve batch` does the same and more: several processes, object stores, and a run that goes on where it was ended.
Begin from this script where the rows come from elsewhere, or go elsewhere: a database, a queue, a filter in between.
"""

import argparse
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from palm_serve.batch import Answerer

ROWS = 4096
"""Rows of a batch. Texts of a batch are sorted by length, so many rows waste less padding."""


def answer_files(bundle: str, source: Path, target: Path, text_column: str = "text") -> int:
    """Answer each row of the input, and return how many could not be answered.

    Args:
        bundle: directory of the bundle.
        source: a Parquet file, or a folder of them.
        target: the Parquet file to write.
        text_column: name of the column of texts.
    """
    rows = ds.dataset(source, format="parquet")
    answerer = Answerer(bundle, text_column=text_column)
    unfinished = target.with_name(target.name + ".part")
    failed = 0
    with pq.ParquetWriter(unfinished, answerer.schema(rows.schema)) as writer:
        for batch in rows.to_batches(batch_size=ROWS):
            answers = answerer(pa.Table.from_batches([batch]))
            failed += len(answers) - answers.column("error").null_count
            writer.write_table(answers)
    answerer.close()
    os.replace(unfinished, target)  # so that a file with this name is whole
    return failed


def main() -> None:
    """Answer the files of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--text-column", default="text")
    options = parser.parse_args()
    failed = answer_files(options.bundle, options.input, options.output, options.text_column)
    print(f"{pq.read_metadata(options.output).num_rows:,} rows in {options.output}, {failed:,} of them with an error")


if __name__ == "__main__":
    main()
