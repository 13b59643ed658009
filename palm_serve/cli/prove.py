"""`palm-serve prove`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palm_serve.cli.shared import provider_option, report_errors, show, start_log, write_line
from palm_serve.config import LogLevel, Precision, ServeOptions
from palm_serve.errors import BundleError, EngineError

if TYPE_CHECKING:
    from palm_serve.bundle.loader import Bundle
    from palm_serve.engine.candidate import Candidate
    from palm_serve.engine.timing import Times
    from palm_serve.proof.outcomes import ProofOutcome

_FIELDS = ServeOptions.model_fields


def _one_provider(value: str) -> str:
    if "," in value:
        raise typer.BadParameter(f"must be one name, got '{value}'")
    return provider_option(value)


def prove(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="Bundle directory or URL (s3://...). BUNDLE@sha256:DIGEST also checks its digest."
        ),
    ],
    provider: Annotated[
        str,
        typer.Option(
            callback=_one_provider, help="Prove this execution provider only: CPU, OpenVINO, CUDA or TensorRT."
        ),
    ] = "auto",
    precision: Annotated[Precision, typer.Option(help="Prove this precision only.")] = Precision.AUTO,
    threads: Annotated[int | None, typer.Option(min=1, help=_FIELDS["threads"].description)] = None,
    cache_dir: Annotated[Path | None, typer.Option(metavar="DIR", help=_FIELDS["cache_dir"].description)] = None,
    trust: Annotated[Path | None, typer.Option(metavar="DIR", help=_FIELDS["trust"].description)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the engines of this machine with the proof of a bundle.

    Those that answer as the trained model did pass, by the rules of the export.
    The outcome is kept for `palm-serve run`, which uses only what passes. The exit code is 1 if nothing of what is asked
    for passes.
    \f

    Args:
        bundle: directory of the bundle.
        provider: execution provider, or `auto` for all.
        precision: precision, or `auto` for all.
        threads: threads of one run.
        cache_dir: directory for the outcome.
        trust: folder of public keys.
        as_json: print JSON.

    Raises:
        typer.Exit: with code 1 if nothing passes.
    """
    start_log(LogLevel.ERROR)
    with report_errors():
        loaded, outcomes, times = _load_and_prove(bundle, trust, (provider, precision, threads, cache_dir))
        if as_json:
            write_line(json.dumps(_as_json(loaded, outcomes, times), indent=2, ensure_ascii=False))
        else:
            _show_table(loaded, outcomes, times)
        if not any(outcome.passed for outcome in outcomes.values()):
            raise typer.Exit(1)


def _load_and_prove(
    path: Path, trust: Path | None, options: tuple[str, str, int | None, Path | None]
) -> "tuple[Bundle, Mapping[Candidate, ProofOutcome], Mapping[Candidate, Times]]":
    """Load a bundle and prove what the options of `EngineRequest` allow, in limited memory."""
    from palm_serve.bundle.loader import PROOF, load_bundle
    from palm_serve.proof.selection import EngineRequest
    from palm_serve.registry.local_bundle import local_bundle
    from palm_serve.registry.memory_limit import bundle_memory, limited_memory

    path = local_bundle(path, None, cache=options[3], trust=trust)
    memory = bundle_memory(path)
    try:
        with limited_memory(memory):
            bundle = load_bundle(path, trust=trust, defer_graphs=True)
            if bundle.proof is None:
                raise BundleError(
                    f"{bundle.path} must hold {PROOF}, got none: it was exported by an earlier version. Export it again."
                )
            outcomes, times = _prove(bundle, EngineRequest(*options))
            bundle.verify()
    except MemoryError:
        raise EngineError(f"{path} must be proven within {memory / 2**20:,.0f} MiB, and needs more") from None
    return bundle, outcomes, times


def _prove(bundle: "Bundle", request: Any) -> "tuple[Mapping[Candidate, ProofOutcome], Mapping[Candidate, Times]]":
    """Prove all combinations that the request allows, and time those that pass."""
    from palm_serve.engine.candidate import PLAIN, Candidate
    from palm_serve.engine.candidate_times import measure_engines
    from palm_serve.engine.providers import AUTO
    from palm_serve.proof.outcomes import ProofOutcome
    from palm_serve.proof.selection import CandidateProver, MachineFacts, requested_candidates

    try:
        candidates = requested_candidates(bundle, request)
    except EngineError as error:
        if request.provider == AUTO:
            raise
        missing = Candidate(PLAIN.variant, request.provider, str(request.precision))
        return {missing: ProofOutcome(status="unusable", reason=str(error))}, {}
    prover = CandidateProver(bundle, request, MachineFacts(), candidates, anew=True)
    prover.prove(candidates)
    engines = {candidate: prover.engines[candidate] for candidate in prover.passed}
    return prover.outcomes, measure_engines(bundle, engines) if engines else {}


def _as_json(
    bundle: "Bundle", outcomes: "Mapping[Candidate, ProofOutcome]", times: "Mapping[Candidate, Times]"
) -> dict[str, Any]:
    rows = []
    for candidate, outcome in outcomes.items():
        row: dict[str, Any] = {
            "variant": candidate.variant,
            "provider": candidate.provider,
            "precision": candidate.precision,
            "outcome": outcome.status,
            "reason": outcome.reason,
            "figures": outcome.figures,
        }
        if candidate in times:
            row["latency_ms"] = round(1e3 * times[candidate][0], 3)
            row["batch_ms"] = round(1e3 * times[candidate][1], 3)
        rows.append(row)
    return {"name": bundle.manifest.name, "version": bundle.manifest.version, "rows": rows}


def _show_table(
    bundle: "Bundle", outcomes: "Mapping[Candidate, ProofOutcome]", times: "Mapping[Candidate, Times]"
) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("variant", "provider", "precision", "max diff", "equal", "1 text", "batch 32", "proof"):
        table.add_column(column, justify="left" if column in ("variant", "provider", "precision", "proof") else "right")
    lines = []
    for candidate, outcome in outcomes.items():
        figures = outcome.figures
        seconds = times.get(candidate)
        table.add_row(
            candidate.variant,
            candidate.provider,
            candidate.precision,
            f"{figures['max_logit_difference']:.1e}" if "max_logit_difference" in figures else "-",
            f"{100 * figures['answers_equal']:.2f} %" if "answers_equal" in figures else "-",
            "-" if seconds is None else f"{1e3 * seconds[0]:.2f} ms",
            "-" if seconds is None else f"{1e3 * seconds[1]:.2f} ms",
            outcome.status.replace("_", " "),
        )
        if outcome.reason:
            lines.append(f"{candidate}: {outcome.reason}")
    assert bundle.proof is not None
    count = len(bundle.proof.info.examples)
    shapes = sum(not batch.examples for batch in bundle.proof.info.batches)
    show(
        table,
        *lines,
        f"{bundle.manifest.name} {bundle.manifest.version[:12]}: {count} dev examples, {shapes} random shapes",
    )
