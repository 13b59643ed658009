"""A server with the file of options of docs/how-to/serve/before_strangers.md keeps its promises to strangers."""

import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palm_serve.client import Client, tls
from palm_serve.errors import NotAllowed, Unauthenticated, Unavailable
from palm_serve.rpc.access.tokens import new_token

PAGE = (Path(__file__).parents[2] / "docs/how-to/serve/before_strangers.md").read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def files(tmp_path: Path, make_certificate: Callable[..., tuple[Path, Path]]) -> tuple[Path, str]:
    """The files that the page names in one folder, and the token of the client `website`."""
    certificate, key = make_certificate("served")
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "serve.toml").write_text(block, encoding="utf-8")
    certificate.rename(tmp_path / "cert.pem")
    key.rename(tmp_path / "key.pem")
    secret, digest = new_token()
    (tmp_path / "tokens.toml").write_text(f'[tokens.website]\nsha256 = "{digest}"\nscopes = ["parse"]\n')
    return tmp_path, secret


def test_page_options_refuse_strangers_and_other_scopes(
    files: tuple[Path, str], start_server: Callable[..., Any], tiny_bundle: Path
) -> None:
    folder, secret = files
    port = free_port()
    # All addresses of this machine would be open to its network while the test runs.
    here = ("--host", "127.0.0.1", "--metrics-port", port)
    target = start_server(tiny_bundle, "--config", folder / "serve.toml", *here).target()
    credentials = tls(folder / "cert.pem")
    with Client(target, retries=0) as plain, pytest.raises(Unavailable):
        plain.parse("fly to boston")
    with Client(target, credentials=credentials, retries=0) as stranger:
        with pytest.raises(Unauthenticated):
            stranger.parse("fly to boston")
        with pytest.raises(Unauthenticated):
            stranger.health()
    with Client(target, credentials=credentials, token=secret, retries=0) as client:
        assert client.parse("fly to boston").intent.name == "flight"
        with pytest.raises(NotAllowed):
            client.models()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        assert b'code="UNAUTHENTICATED"' in response.read()
