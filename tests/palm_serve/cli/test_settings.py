"""Names and precedence of the options of `palm-serve run`."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.cli.settings import as_toml, flag, resolve, variable
from palm_serve.config import GROUPS, ServeOptions
from palm_serve.errors import ConfigError

NAMES = set(ServeOptions.model_fields)


def command() -> click.Command:
    group: Any = typer.main.get_command(app)
    found: click.Command = group.commands["run"]
    return found


def faults(config: Path | None = None, environment: dict[str, str] | None = None, **flags: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(flags, config, environment or {})
    return str(caught.value).splitlines()


def test_served_process_searches_no_imports_for_cycles(tmp_path: Path) -> None:
    """In a process of its own, because the garbage collector is that of the whole process."""
    program = """
import gc, sys
import palm_serve.server
async def serve(options, print_line):
    print(gc.get_freeze_count(), len(gc.get_objects()))
palm_serve.server.serve = serve
from palm_serve.cli.main import main
sys.argv = ["palm-serve", "run", "--watch", sys.argv[1]]
main()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    frozen, searched = map(int, told.split())
    assert frozen > 20_000
    assert searched < frozen / 10


def test_flags_variables_and_keys_have_the_same_names() -> None:
    flags = {name for parameter in command().params for name in parameter.opts}
    own = {"--config", "--print-config", "--help", "bundles"}
    assert flags - own == {flag(name) for name in NAMES - {"bundles"}}
    assert {name for group in GROUPS for name in group.__annotations__} == NAMES
    assert all(field.description for field in ServeOptions.model_fields.values())


@settings(max_examples=50, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={"max_queue": st.integers(1, 9), "host": st.text("ab.:é", min_size=1)}),
    st.fixed_dictionaries({}, optional={"max_queue": st.integers(11, 19), "drain_grace": st.floats(0, 99)}),
    st.fixed_dictionaries({}, optional={"max_queue": st.integers(21, 29), "drain_grace": st.floats(0, 99)}),
)
def test_command_line_overrides_environment_and_file(
    tmp_path_factory: pytest.TempPathFactory, flags: dict[str, Any], environment: dict[str, Any], file: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("config") / "serve.toml"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in file.items()))
    found = resolve(flags, path, {variable(name): str(value) for name, value in environment.items()})
    wanted = file | environment | flags
    assert {name: getattr(found.options, name) for name in wanted} == wanted
    assert set(found.sources) == set(wanted)
    assert found.options == ServeOptions(**wanted)
    printed = as_toml(found)
    path.write_text(printed)
    assert resolve({}, path, {}).options == found.options
    assert set(tomllib.loads(printed)) <= NAMES


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text('bundles = ["a", "/b"]\ntls_cert = "c"\ntls_key = "../k"\nhost = "h"\n')
    options = resolve({}, path, {}).options
    assert options.bundles == (tmp_path / "a", Path("/b"))
    assert (options.tls_cert, options.tls_key, options.host) == (tmp_path / "c", tmp_path / "../k", "h")


def test_environment_sets_options() -> None:
    environment = {
        "PALM_SERVE_BUNDLES": "a:b/c",
        "PALM_SERVE_ALLOW_MODEL_CONTROL": "true",
        "PALM_SERVE_THREADS": "",
        "PALM_SERVE_PROVIDER": "CPU",
        "OTHER": "x",
    }
    found = resolve({}, None, environment)
    assert found.options == ServeOptions(bundles=(Path("a"), Path("b/c")), allow_model_control=True, provider="CPU")
    assert found.sources["provider"] == "PALM_SERVE_PROVIDER"


def test_kubernetes_service_variables_are_ignored() -> None:
    environment = {
        "PALM_SERVE_SERVICE_HOST": "10.0.0.1",
        "PALM_SERVE_SERVICE_PORT": "50051",
        "PALM_SERVE_SERVICE_PORT_GRPC": "50051",
        "PALM_SERVE_PORT": "tcp://10.0.0.1:50051",
        "PALM_SERVE_PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "PALM_SERVE_PORT_50051_TCP_PROTO": "tcp",
        "PALM_SERVE_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert resolve({}, None, environment).options == ServeOptions()


def test_config_variable_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("threads = 3")
    assert resolve({}, None, {"PALM_SERVE_CONFIG": str(path)}).options.threads == 3


def test_resolve_reports_all_faults(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text('prot = 1\nport = 99999\nhost = 7\nbundles = "one"\n')
    found = faults(path, {"PALM_SERVE_MAX_QUEU": "1", "PALM_SERVE_THREADS": "zero"}, precision="fp7")
    assert f"{path}: unknown key 'prot'. Did you mean 'port'?" in found
    assert "unknown variable 'PALM_SERVE_MAX_QUEU'. Did you mean 'PALM_SERVE_MAX_QUEUE'?" in found
    assert f"{path}: port must be less than or equal to 65535, got 99999" in found
    assert f"{path}: host must be a valid string, got 7" in found
    assert any(line.startswith("PALM_SERVE_THREADS must be a valid integer") for line in found)
    assert any(line.startswith("--precision must be 'auto', 'fp32'") for line in found)
    assert any(line.startswith(f"{path}: bundles must be a valid tuple") for line in found)
    assert len(found) == 7


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a = yes", "must be TOML"),
        (b'a = "\xff"', r":1: must be UTF-8, got the byte 0xff"),
        (None, "cannot be read: No such file"),
    ],
)
def test_invalid_file_raises_config_error(tmp_path: Path, content: bytes | None, match: str) -> None:
    path = tmp_path / "serve.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=match):
        resolve({}, path, {})


def test_print_config_shows_sources(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text('bundles = ["demo"]\nallow_model_control = true\n')
    result = CliRunner().invoke(
        app,
        ["run", "--config", str(path), "--no-allow-model-control", "--print-config"],
        env={"PALM_SERVE_MAX_QUEUE": "7"},
    )
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f'bundles = ["{tmp_path}/demo"] # {path}' in lines
    assert "max_queue = 7 # PALM_SERVE_MAX_QUEUE" in lines
    assert "allow_model_control = false # --allow-model-control" in lines
    assert "port = 50051 # default" in lines
    assert "# threads is not set" in lines


def test_run_reports_faults(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", "x", "--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert "none.toml cannot be read" in result.stderr
    result = CliRunner().invoke(app, ["run"])
    assert result.exit_code == 2
    assert "no bundle to serve" in result.stderr


@pytest.mark.parametrize("value", ["1e300", "99999999999999", "inf", "nan"])
def test_every_number_has_an_upper_limit(value):
    """Without one, a slip ends in an overflow inside gRPC or of a timer."""
    checked = 0
    for name, field in ServeOptions.model_fields.items():
        annotations = {field.annotation, *get_args(field.annotation)}
        if annotations & {int, float}:
            with pytest.raises(ConfigError, match=rf"PALM_SERVE_{name.upper()} must be "):
                resolve({}, None, {f"PALM_SERVE_{name.upper()}": value})
            checked += 1
    assert checked > 20
