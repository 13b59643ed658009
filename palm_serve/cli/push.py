"""`palm-serve push`."""

from pathlib import Path
from typing import Annotated

import typer

from palm_serve.cli.shared import report_errors, say, start_log
from palm_serve.config import LogLevel, ServeOptions
from palm_serve.errors import StorageError

_FIELDS = ServeOptions.model_fields


def push(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Bundle directory. DIR@sha256:DIGEST also checks its digest.")
    ],
    url: Annotated[
        Path,
        typer.Argument(metavar="URL", help="Where to: s3://BUCKET/NAME, gs://, az://, or hf://OWNER/NAME of the Hub."),
    ],
    trust: Annotated[Path | None, typer.Option(metavar="DIR", help=_FIELDS["trust"].description)] = None,
) -> None:
    """Verify a bundle and copy it to a URL.

    The URL with the digest is printed. The manifest is written last. Object stores take credentials from the environment, as their own tools do.
    \f

    Args:
        bundle: directory of the bundle.
        url: where to.
        trust: folder of public keys.
    """
    start_log(LogLevel.WARNING)
    with report_errors():
        from palm_serve.bundle.loader import load_bundle
        from palm_serve.bundle.push import push_bundle
        from palm_serve.storage.urls import as_url

        target = as_url(url)
        if target is None:
            raise StorageError(
                f"URL must begin with s3://, gs://, az:// or hf://, got {url}. Copy to folders with `cp -r`."
            )
        target = target.rstrip("/")
        loaded = load_bundle(bundle, trust=trust)
        push_bundle(loaded, target, lambda line: say(line, err=True))
        say(f"pushed {loaded.manifest.name}: {target}@sha256:{loaded.manifest.version}")
