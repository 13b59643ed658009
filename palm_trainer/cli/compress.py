"""The command `palm-train compress`."""

from pathlib import Path
from typing import Annotated

import typer

from palm_trainer.cli.arguments import RunArgument, SetOption
from palm_trainer.cli.run_events import guarded, listen_from_start, tell_how_to_continue
from palm_trainer.cli.stop_request import StopRequest

compress_app = typer.Typer()


@compress_app.command(
    "compress", epilog="Example: palm-train compress runs/atis --output runs/atis-small --text unlabelled.txt"
)
def _compress(
    run: RunArgument,
    output: Annotated[Path, typer.Option(help="Run directory of the smaller model.", show_default=False)],
    layers: Annotated[
        int | None, typer.Option(min=1, max=48, help="Transformer layers. Default: half of those of RUN.")
    ] = None,
    feed_forward: Annotated[
        int | None, typer.Option(min=8, max=65_536, help="Width of the feed-forward layers. Default: that of RUN.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Unlabelled text to learn from beside the data of RUN, one text a line."),
    ] = None,
    prune_vocabulary: Annotated[
        str | None,
        typer.Option(
            metavar="text|FILE",
            help="Keep only the pieces that the training text can produce, or that and the texts of FILE (one a line), "
            "and all single characters.",
        ),
    ] = None,
    overrides: SetOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in the output directory.")] = False,
) -> None:
    """Train a smaller model that learns the answers of RUN.

    It begins with every other layer of RUN, learns what RUN answers to its data and to unlabelled text, and is made for
    int8. The result is a run: evaluate, predict and export it as any other.
    """
    # Imported here: wrong usage is told without torch.
    from palm_trainer.cli.console import show
    from palm_trainer.cli.show import show_training
    from palm_trainer.runs.compress import CompressOptions, compress_config, describe_compression
    from palm_trainer.runs.run import train

    options = CompressOptions(layers, feed_forward, text, prune_vocabulary)
    settings = compress_config(run, output, options, overrides or ())
    stop = StopRequest()
    events = train(settings, overwrite=overwrite, stop=stop)
    if show_training(guarded(listen_from_start(events, stop)), settings, stop.lose_output):
        tell_how_to_continue(settings)
        raise typer.Exit(stop.exit_code)
    if stop.output_is_lost:
        raise typer.Exit(stop.exit_code)
    for line in describe_compression(run, settings):
        show(line)
