"""How far a run has come."""

import time
from dataclasses import dataclass, field

from palm_serve.batch.output_folder import WrittenPart


@dataclass(slots=True)
class Progress:
    """Rows and parts of a run, as far as it has come."""

    rows: int
    part_count: int
    done_rows: int = 0
    done_parts: int = 0
    error_rows: int = 0
    earlier_rows: int = 0
    """Rows that an earlier run has answered."""
    earlier_parts: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, written: WrittenPart, *, earlier: bool = False) -> None:
        """Count a part, of this run or of an earlier one."""
        self.done_rows += written.rows
        self.done_parts += 1
        self.error_rows += written.errors
        if earlier:
            self.earlier_rows += written.rows
            self.earlier_parts += 1

    @property
    def rows_per_s(self) -> float:
        """Rows that this run has answered in a second."""
        return (self.done_rows - self.earlier_rows) / max(time.monotonic() - self.began, 1e-9)

    @property
    def line(self) -> str:
        """Progress on one line, with the rate and the time that is left."""
        rate = self.rows_per_s
        seconds = round((self.rows - self.done_rows) / max(rate, 1e-9))
        remaining = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return f"{self.done_rows:,} of {self.rows:,} rows, {rate:,.0f} rows/s, {remaining} left"

    @property
    def summary(self) -> str:
        """The finished run on one line."""
        earlier = f" ({self.earlier_parts:,} of an earlier run)" if self.earlier_parts else ""
        errors = f"{self.error_rows:,} with an error" if self.error_rows else "none with an error"
        return f"{self.rows:,} rows in {self.part_count:,} parts{earlier}, {errors}"
