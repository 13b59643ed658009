"""Registers bundles in the model registry of MLflow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_serve.bundle.manifest import Manifest
from palm_serve.errors import one_line
from palm_serve.system.installation import how_to_install
from palm_trainer.errors import ExportError

_SCHEME = "mlflow:"
_TRACKING = "MLFLOW_TRACKING_URI"
_REGISTRY = "MLFLOW_REGISTRY_URI"
_ARTIFACT = "bundle"


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in a registry. `source` is where its files are."""

    name: str
    version: str
    source: str


def registry_name(value: str) -> str:
    """Return the name of the model in `mlflow:NAME`, once all that registering needs is there.

    Raises:
        ExportError: it is written otherwise, no server is named, or MLflow is not installed.
    """
    name = value.removeprefix(_SCHEME)
    if not value.startswith(_SCHEME) or not name.strip() or set(name) & {"/", ":"}:
        raise ExportError(f"--register must be mlflow:NAME, got {value!r}. Give a name without '/' and ':'.")
    if not os.environ.get(_TRACKING):
        raise ExportError(
            f"--register {value} needs the address of the server. Set {_TRACKING}, as in http://HOST:5000."
        )
    _client_class()
    return name


def register_bundle(bundle: Path, manifest: Manifest, name: str) -> Registered:
    """Copy a bundle to MLflow as the artifact of a run, and register it as the next version of a model.

    The version has the digest as its tag `palm.digest`. The run has the figures of the gates.

    Args:
        bundle: directory of the bundle.
        manifest: its manifest.
        name: name of the model, which is registered if it is not yet.

    Raises:
        ExportError: the server refuses it or does not answer. The bundle is complete all the same.
    """
    tags = {"palm.digest": f"sha256:{manifest.version}", "palm.model": manifest.name}
    with _told(name, bundle):
        client = _client_class()()
        experiment = client.get_experiment_by_name(name)
        experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
        run = client.create_run(experiment_id, tags=tags, run_name=manifest.version[:12])
        for variant, facts in manifest.variants.items():
            for gate in facts.gates:
                for figure, value in gate.figures.items():
                    client.log_metric(run.info.run_id, f"{variant}/{gate.provider}/{gate.precision}/{figure}", value)
        client.log_artifacts(run.info.run_id, str(bundle), _ARTIFACT)
        client.set_terminated(run.info.run_id)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/{_ARTIFACT}"
        version = client.create_model_version(name, source, run.info.run_id, tags=tags)
    return Registered(name, str(version.version), source)


def _client_class() -> Any:
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise ExportError(
            f"--register needs mlflow, which is not installed. To install it, {how_to_install('mlflow')}"
        ) from None
    return MlflowClient


@contextmanager
def _told(name: str, bundle: Path) -> Iterator[None]:
    """Turn what the client of MLflow raises into one message."""
    from mlflow.exceptions import MlflowException

    server = os.environ.get(_REGISTRY) or os.environ[_TRACKING]
    try:
        yield
    except (MlflowException, OSError) as error:
        raise ExportError(
            f"'{name}' could not be registered at {server}: {one_line(error)}. The bundle {bundle} is complete. "
            "Export it again with --overwrite once the server answers."
        ) from None
