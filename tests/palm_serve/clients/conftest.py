"""Texts for unmodified clients of other projects, what gRPC answers to them, and a server with both doors.

Each client has an environment of its own, which `tests/environments.py` makes. The tests of a client hand it a file of texts
and compare what it prints with the answers of gRPC.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

_PATH = Path(__file__).parents[1] / "http" / "conftest.py"
_spec = importlib.util.spec_from_file_location("http_fixtures", _PATH)
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

close = _fixtures.close
make_door = _fixtures.make_door
make_shared_door = _fixtures.make_shared_door

ATIS_TEXTS = 200
ODD_TEXTS = (
    "\N{GRINNING FACE}\N{REGIONAL INDICATOR SYMBOL LETTER C}\N{REGIONAL INDICATOR SYMBOL LETTER N} fly from boston to denver",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL} weather in 北京 on monday",
    "北京 天气 next week",
    "من boston إلى denver on monday",
    "\N{RIGHT-TO-LEFT OVERRIDE}boston\N{POP DIRECTIONAL FORMATTING} to new york",
    "e\u0301 n\u0303 boston a\u0301\u0323 monday",
    "bo\u0301ston on monday",
    "  play\ta\nsong \u00a0 adele",
    'a "quoted" \\ back\\slash / and \u2028 separator in boston',
    "\N{MATHEMATICAL BOLD CAPITAL A}\N{MATHEMATICAL BOLD CAPITAL B} boston",
)


@pytest.fixture(scope="session")
def texts(palm_data: Path) -> list[str]:
    """Return 200 texts of ATIS, and odd ones."""
    lines = (palm_data / "atis" / "test" / "seq.in").read_text(encoding="utf-8").splitlines()
    assert len(lines) > ATIS_TEXTS
    return [*lines[:ATIS_TEXTS], *ODD_TEXTS]


@pytest.fixture(scope="session")
def text_file(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the texts as JSON."""
    file = tmp_path_factory.mktemp("texts") / "texts.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def door(make_shared_door: Callable[..., Any]) -> Any:
    """Run a server that the tests of a module share."""
    return make_shared_door()


@pytest.fixture(scope="module")
def ask(door: Any) -> Iterator[Callable[..., list[pb.ParseResponse]]]:
    """Return `ask(texts, **fields)`: the answers of gRPC."""
    with grpc.insecure_channel(door.target) as channel:
        stub = stubs.DialogueUnderstandingStub(channel)

        def ask_all(texts: list[str], **fields: Any) -> list[pb.ParseResponse]:
            # One after the other, as most clients ask: each is decoded alone.
            answers = [stub.Parse(pb.ParseRequest(text=text, **fields), timeout=60) for text in texts]
            assert all(answer.HasField("intent") for answer in answers)
            return answers

        yield ask_all
