"""`palm-serve token`."""

import re
from datetime import datetime
from typing import Annotated

import typer

from palm_serve.cli.shared import write_line
from palm_serve.rpc.access.tokens import Scope, new_token

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

token = typer.Typer(
    help="Manage access tokens for `palm-serve run --tokens FILE`.", no_args_is_help=True, rich_markup_mode=None
)


@token.callback()
def group() -> None:
    """Manage access tokens for `palm-serve run --tokens FILE`."""


@token.command(epilog="Example: palm-serve token new website --scope parse --expires 2027-06-30")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client. Rate limits apply per name.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="Permission of the token, may be repeated: parse (inference), read (models, statistics, reflection), "
            "control (load, unload, labels), feedback (corrections), metrics, health. Default: parse."
        ),
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Expiry in UTC. Default: never.")
    ] = None,
) -> None:
    """Print a new token, and its entry for the file of tokens.

    The token is not stored anywhere. The entry holds its hash.
    """
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"must be 1 to 64 letters, digits, '_' or '-', got '{name}'", param_hint="NAME")
    secret, digest = new_token()
    scopes = ", ".join(f'"{member.value}"' for member in dict.fromkeys(scope or [Scope.PARSE]))
    write_line(f"token, shown only now: {secret}\n\nfor the file of tokens:\n")
    write_line(f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = [{scopes}]')
    if expires is not None:
        write_line(f"expires = {expires:%Y-%m-%dT%H:%M:%SZ}")
