"""Output of `palm-train convert`: what was written, and on standard error what the source held besides."""

import sys
from pathlib import Path

from palm_serve.system.plain_text import plain_message
from palm_trainer.data.convert import convert, convert_split
from palm_trainer.data.divide import parse_shares


def convert_data(
    source: Path,
    target: Path,
    source_format: str | None,
    target_format: str | None,
    field: str | None,
    split: str | None,
) -> None:
    """Convert data, and tell what was read, passed over and lost.

    Args:
        source: a file or directory.
        target: file to write, or with `split` a directory.
        source_format: None detects it.
        target_format: None: by the name of the target.
        field: the only field to write.
        split: shares such as `train=0.9,dev=0.1`. None: one target.
    """
    if split is None:
        conversion = convert(source, target, source_format=source_format, target_format=target_format, field=field)
        conversions = {"": conversion}
    else:
        shares = parse_shares(split)
        conversions = convert_split(
            source, target, shares, source_format=source_format, target_format=target_format, field=field
        )
    for name, conversion in conversions.items():
        place = f"{target} {name}".rstrip()
        formats = f"{source} ({conversion.source_format}) -> {place} ({conversion.target_format})"
        print(f"{formats}: {conversion.count} examples")
        for title, defects in (("source", conversion.defects), ("not held", conversion.losses)):
            for defect in defects:
                line = f"  {title}: {defect.count} x {defect.kind}, first at {defect.first}"
                print(plain_message(line), file=sys.stderr)
