"""Options of `palm-serve run` for several models and versions."""

from pathlib import Path
from typing import Any

import pytest

from palm_serve.cli.settings import resolve
from palm_serve.config import ServeOptions
from palm_serve.errors import ConfigError


def test_shares_apply_to_all_or_some_models() -> None:
    assert ServeOptions().traffic("faq") == (0.0, 0.0)
    options = ServeOptions(canary="0.1", shadow="faq=0.2, help=1")
    assert (options.traffic("faq"), options.traffic("help"), options.traffic("x")) == ((0.1, 0.2), (0.1, 1), (0.1, 0))
    options = ServeOptions(canary="0.1,faq=0")
    assert (options.traffic("faq"), options.traffic("x")) == ((0, 0), (0.1, 0))


@pytest.mark.parametrize("option", ["canary", "shadow"])
@pytest.mark.parametrize("share", ["2", "-0.1", "faq", "faq=", "10%", "faq=0.1;help=0.1", "0.1,", "nan"])
def test_invalid_share_is_refused(option: str, share: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"--{option} must be a number from 0 to 1, as in 0.1 or faq=0.1,help=0.05, got"
    ):
        resolve({option: share}, None, {})


def test_watch_and_model_folder_exclude_each_other(tmp_path: Path) -> None:
    given: dict[str, Any] = {"watch": tmp_path, "model_folder": tmp_path}
    with pytest.raises(ConfigError, match="LoadModel also uses the watched directory"):
        resolve(given, None, {})


def test_folder_in_a_file_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text('watch = "models"\ncanary = "0.05"\n')
    options = resolve({}, tmp_path / "serve.toml", {}).options
    assert (options.watch, options.traffic("any")) == (tmp_path / "models", (0.05, 0.0))
