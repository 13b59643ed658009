"""The generators of the documentation are imported from docs/, as `python docs/reference_pages` does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
