"""The command line application `palm-serve`."""

import sys

import typer

from palm_serve.cli.batch import batch
from palm_serve.cli.bench import bench
from palm_serve.cli.call import call
from palm_serve.cli.check import check
from palm_serve.cli.grouped_help import GroupedCommand
from palm_serve.cli.health import health
from palm_serve.cli.plan import plan
from palm_serve.cli.prove import prove
from palm_serve.cli.push import push
from palm_serve.cli.run import run
from palm_serve.cli.token import token
from palm_serve.system.plain_text import os_message
from palm_serve.system.program import run_program
from palm_serve.system.usage_errors import ProgramGroup

app = typer.Typer(
    cls=ProgramGroup,
    name="palm-serve",
    help="Serve PALM bundles over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich takes longer to load than the rest of `--help`
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,
)
app.command(
    cls=GroupedCommand,
    epilog="Example: palm-serve run bundles/demo --port 50051. "
    "A watched directory with a canary: palm-serve run --watch models --canary 0.05",
)(run)
app.command(epilog="Example: palm-serve check bundles/demo")(check)
app.command(epilog="Example: palm-serve prove bundles/demo")(prove)
app.command(epilog="Example: palm-serve push bundles/demo s3://models/demo")(push)
app.command(epilog="Example: palm-serve batch questions.parquet answers --bundle bundles/demo --keep id")(batch)
app.command(epilog='Example: palm-serve call "show me flights from boston to denver on monday"')(call)
app.command(epilog="Example: palm-serve health localhost:50051 --model demo")(health)
app.command(epilog="Example: palm-serve bench localhost:50051 --rate 200 --deadline 0.5")(bench)
app.command(epilog="Example: palm-serve plan --rate 100000 --p99 0.2 --from bench.json --price 0.04")(plan)
app.add_typer(token, name="token")


def main() -> None:
    """Run `palm-serve`."""
    run_program("palm-serve", _command)


def _command() -> int:
    try:
        app()
    except OSError as error:
        print(f"palm-serve: {os_message(error)}", file=sys.stderr)
        return 2
    return 0
