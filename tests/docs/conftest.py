"""The generators of the documentation are imported from docs/, as `python docs/reference_pages` does, and helpers from here."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "docs")]
