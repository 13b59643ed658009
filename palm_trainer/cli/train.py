"""The command `palm-train`."""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palm_serve.system.plain_text import os_message, plain_message
from palm_serve.system.program import OutputLost, run_program
from palm_serve.system.usage_errors import ProgramGroup
from palm_trainer.cli.add_class import add_class_app
from palm_trainer.cli.arguments import ConfigArgument, PatienceOption, ReviewOption, RunArgument, SetOption
from palm_trainer.cli.compress import compress_app
from palm_trainer.cli.environment import limit_spinning, limit_threads
from palm_trainer.cli.health import health_app
from palm_trainer.cli.models import models_app
from palm_trainer.cli.resume_option import Resume, ResumeCommand, resume_mode
from palm_trainer.cli.run_events import guarded, listen_from_start, tell_how_to_continue
from palm_trainer.cli.stop_request import StopRequest
from palm_trainer.config.atomic_files import check_output_file, write_output
from palm_trainer.config.moved_keys import MovedKeyWarning
from palm_trainer.errors import PalmError
from palm_trainer.training import DEFAULT_PATIENCE

if TYPE_CHECKING:  # torch takes seconds to load, and `--help` does not need it
    from palm_trainer.config.loader import Config

app = typer.Typer(
    cls=ProgramGroup,
    name="palm-train",
    help="Train many language-understanding tasks on one encoder.",
    epilog="Example: palm-train run examples/atis.toml && palm-train evaluate runs/atis --split test",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes longer to load than the rest of `--help`
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(models_app, name="models")
app.add_typer(add_class_app)
app.add_typer(compress_app)
app.add_typer(health_app)


@app.command(
    cls=ResumeCommand, epilog="Example: palm-train run examples/atis.toml --set train.epochs=5 --output runs/short"
)
def run(
    config: ConfigArgument,
    overrides: SetOption = None,
    output: Annotated[Path | None, typer.Option(help="Run directory; overrides train.output.")] = None,
    resume: Annotated[
        Resume | None,
        typer.Option(
            "--resume",
            metavar="[auto]",
            show_default=False,
            help="Continue an interrupted run from its last checkpoint. auto: begin where there is none. "
            "Also train.resume, and PALM_TRAIN_RESUME=auto.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in the output directory.")] = False,
    review: ReviewOption = None,
    patience: PatienceOption = DEFAULT_PATIENCE,
) -> None:
    """Train, and save the best and the last checkpoint.

    The dev split is evaluated after each epoch. Under torchrun several processes train together.
    """
    from palm_trainer.cli.show import show_training, watch_training
    from palm_trainer.config.loader import load_config
    from palm_trainer.runs.run import train
    from palm_trainer.training.processes import process_group

    with process_group(patience) as processes:
        if resume is not None and overwrite:
            raise PalmError("--resume continues a run and --overwrite replaces it. Give one of them.")
        if not processes.is_first:  # the first process warns
            warnings.filterwarnings("ignore", category=MovedKeyWarning)
        settings = load_config(config, overrides or (), output, review=review)
        stop = StopRequest(single_process=processes.size == 1)
        events = train(
            settings,
            resume=resume_mode(resume, settings.train, overwrite=overwrite),
            overwrite=overwrite,
            stop=stop,
            processes=processes,
        )
        events = guarded(listen_from_start(events, stop))
        interrupted = (
            show_training(events, settings, stop.lose_output) if processes.is_first else watch_training(events)
        )
        if interrupted and processes.is_first:
            tell_how_to_continue(settings)
    if interrupted or stop.output_is_lost:
        raise typer.Exit(stop.exit_code)


@app.command(epilog="Example: palm-train evaluate runs/atis --split test --json metrics.json")
def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    checkpoint: Annotated[str, typer.Option(help="best or last.")] = "best",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the metrics to this file.")] = None,
) -> None:
    """Compute the metrics of a run on a split of its data."""
    settings = _run_config(run, checkpoint)
    _check_split(settings, split)
    if json_file is not None:
        check_output_file(json_file)
    # Imported here: wrong usage is told without torch.
    from palm_trainer.cli.console import show
    from palm_trainer.cli.show import metrics_table, show_faults
    from palm_trainer.runs.evaluate_run import evaluate_run, write_metrics

    metrics = evaluate_run(run, settings, split, checkpoint, show_faults)
    if checkpoint == "best":
        write_metrics(run, {split: metrics})
    if json_file is not None:
        write_output(json_file, json.dumps({split: metrics}, indent=2) + "\n")
    show(metrics_table({split: metrics}, f"{run} ({checkpoint})"))


@app.command(epilog="Example: palm-train report runs/atis --split test")
def report(
    run: RunArgument,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate: dev, test or train. Default: dev.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file. Default: report.html in RUN.")] = None,
) -> None:
    """Write an HTML report of a run.

    It shows curves, scores of each label, confusions, calibration, the worst errors and the data.
    """
    settings = _run_config(run, "best")
    if split is not None:
        _check_split(settings, split)
    if output is not None:
        check_output_file(output)
    from palm_trainer.runs.evaluate_run import report_run

    print(f"report: {report_run(run, settings, split, output)}")


@app.command(epilog='Example: palm-train predict runs/atis --text "show me flights from boston to denver"')
def predict(
    run: RunArgument,
    text: Annotated[list[str] | None, typer.Option(help="A text (or question) to answer. Repeatable.")] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="Second text (or passage): one for all texts, or one for each.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", help="File with one text per line, or JSONL with `text` and `text_pair` (`question`, `passage`)."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write JSONL here instead of printing it.")] = None,
) -> None:
    """Predict with a trained model, one JSON object per text."""
    from palm_trainer.runs.predict import predict_lines, read_inputs, with_pairs

    if bool(text) == (source is not None):
        raise PalmError('give either --text "..." or --input FILE.')
    if pair and source is not None:
        raise PalmError("--pair must be given with --text. In an --input FILE each JSON object has its own text_pair.")
    if output is not None:
        check_output_file(output)
    inputs = read_inputs(source) if source is not None else with_pairs(text or (), pair or ())
    text_lines = "".join(line + "\n" for line in predict_lines(run, inputs))
    if output is None:
        sys.stdout.write(text_lines)
        return
    write_output(output, text_lines)


@app.command(epilog="Example: palm-train plan examples/atis.toml")
def plan(
    config: ConfigArgument,
    overrides: SetOption = None,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Read the files only: rows, labels, defects. No encoder is loaded.")
    ] = False,
) -> None:
    """Show what a run would do, without training.

    Rows, labels, token lengths, defects of the data, steps and epochs.
    """
    from palm_trainer.cli.plan import show_plan
    from palm_trainer.config.loader import load_config

    show_plan(load_config(config, overrides or (), default_output=Path("unused")), data_only=data_only)


@app.command(epilog="Example: palm-train compare examples/atis.toml --seeds 13,14,15 --output runs/atis-compare")
def compare(
    config: ConfigArgument,
    overrides: SetOption = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings, separated by commas.")] = "13,14,15",
    output: Annotated[
        Path | None, typer.Option(help="Directory of the runs and the result. Default: train.output with -compare.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Concurrent trainings, each in its own process.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write compare.json to this file.")] = None,
) -> None:
    """Compare joint training with training each task alone.

    Both have the same budget. The differences come with confidence intervals over the seeds.
    """
    from palm_trainer.cli.compare import parse_seeds, show_comparison
    from palm_trainer.config.loader import load_config

    seed_numbers = parse_seeds(seeds)
    if json_file is not None:
        check_output_file(json_file)
    settings = load_config(config, overrides or ())
    folder = output or settings.train.output.with_name(settings.train.output.name + "-compare")
    stop = StopRequest()
    stop.listen()
    if not show_comparison(
        config,
        settings,
        seed_numbers,
        folder,
        jobs,
        json_file,
        stop=stop,
        guard=guarded,
        on_output_lost=stop.lose_output,
    ):
        print(f"stopped; what is finished is kept in {folder}. The same command goes on.", file=sys.stderr)
        raise typer.Exit(stop.exit_code)


@app.command(epilog="Example: palm-train init data/assistant --output assistant.toml")
def init(
    data: Annotated[
        Path, typer.Argument(help="Data file, or a directory with train, dev and test.", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option(help="Write the configuration here instead of printing it.")] = None,
) -> None:
    """Inspect the data and write a configuration that runs."""
    from palm_trainer.data.suggest_config import suggest

    if output is not None:
        check_output_file(output)
        if output.exists():
            raise PalmError(f"{output} exists. Choose another --output, or remove it first.")
    text, notes = suggest(data)
    for line in notes:
        print(plain_message(line), file=sys.stderr)
    if output is None:
        sys.stdout.write(text)
        return
    write_output(output, text)
    print(f"wrote {output}; next: palm-train plan {output}, palm-train run {output}", file=sys.stderr)


@app.command(epilog="Example: palm-train convert data/atis/train atis.tsv --to palm --field slots")
def convert(
    source: Annotated[Path, typer.Argument(help="File or directory of any known format.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="File or directory to write. It must not exist.", show_default=False)],
    source_format: Annotated[
        str | None, typer.Option("--from", help="Format of the source. Default: detected.")
    ] = None,
    target_format: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="jsonl, parquet, joint, conll, palm, tsv, csv, json, squad, rasa, clinc, text, label_studio, doccano, prodigy or spacy. "
            "Default: by the name.",
        ),
    ] = None,
    field: Annotated[str | None, typer.Option(help="Only field that the target holds.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Divide SOURCE into files of the directory TARGET, e.g. train=0.8,dev=0.1,test=0.1. Equal texts stay together."
        ),
    ] = None,
) -> None:
    """Convert data, and report what the target format cannot hold."""
    from palm_trainer.cli.convert import convert_data

    convert_data(source, target, source_format, target_format, field, split)


@app.command(epilog="Example: palm-train schema --output palm-train.schema.json")
def schema(
    output: Annotated[Path | None, typer.Option(help="Write the schema here instead of printing it.")] = None,
) -> None:
    """Print the JSON schema of a configuration.

    Editors complete and check keys, types and defaults with it.
    """
    from palm_trainer.config.json_schema import config_schema

    text = json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        write_output(output, text)


def _check_split(settings: "Config", split: str) -> None:
    from palm_trainer.data.splits import Splits

    splits = Splits(settings.data)
    available = [name for name in ("dev", "test", "train") if splits.data_sets(name)]
    if split not in available:
        raise PalmError(
            f"--split must be a split of the run's data ({', '.join(available)}), got '{split}'. "
            "Name one of them, or add its files to [data.NAME] in the config.toml of the run."
        )


def _run_config(run: Path, checkpoint: str) -> Any:
    from palm_trainer.config.loader import load_config
    from palm_trainer.model.checkpoint_files import checkpoint_directory
    from palm_trainer.runs.file_names import CONFIG

    checkpoint_directory(run, checkpoint)
    return load_config(run / CONFIG, output=run)


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning for the user: a line for a moved key, with the place in the code for any other."""
    if issubclass(category, MovedKeyWarning):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def command(app: Callable[..., Any], arguments: Iterable[str] | None = None) -> int:
    """Run a typer application with the exit codes of this project.

    0: success. 2: an error that the user can correct. 1: a failure. 128 + n: ended by signal n.
    """
    limit_spinning()
    limit_threads()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("default", category=MovedKeyWarning)
    warnings.formatwarning = _warning_line
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(args=None if arguments is None else list(arguments))
    except PalmError as error:
        print(plain_message(f"error: {error}", keep="\n"), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {os_message(error)}", file=sys.stderr)
        return 2
    except OutputLost:
        raise
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def main() -> None:
    """Run `palm-train`."""
    run_program("palm-train", partial(command, app))


if __name__ == "__main__":  # torchrun -m palm_trainer.cli.train run CONFIG
    main()
