"""The tiny bundle and its server, as tests/palm_serve has them."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[1] / "palm_serve" / "conftest.py"
_spec = importlib.util.spec_from_file_location("palm_serve_fixtures", _PATH)
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

tiny_bundle = _fixtures.tiny_bundle
tiny_server = _fixtures.tiny_server
start_shared_server = _fixtures.start_shared_server
