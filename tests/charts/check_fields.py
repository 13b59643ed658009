"""Compare YAML with the models of KServe, Kubeflow Trainer and the Prometheus operator, in an environment that has them.

    python check_fields.py < DOCUMENTS      takes a JSON array of Kubernetes objects; prints faults as a JSON array

KServe's classes are generated from its OpenAPI description: `openapi_types` and `attribute_map` name the fields. Its package
loads a whole server, so only `kserve.models` is imported. The other models are pydantic's: what they do not know they drop.
"""

import importlib
import importlib.metadata
import json
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

PRIMITIVES = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "object": (object,),
    "datetime": (str,),
    "date": (str,),
}


def kserve_models() -> Any:
    """Import `kserve.models` without `kserve` itself."""
    package = types.ModuleType("kserve")
    distribution = importlib.metadata.distribution("kserve")
    package.__path__ = [str(distribution.locate_file("kserve"))]
    sys.modules["kserve"] = package
    return importlib.import_module("kserve.models")


def kserve_faults(kind: str, value: Any, place: str) -> Iterator[str]:
    """Yield what a value has that its type does not know."""
    for pattern, members in (
        (r"list\[(.+)\]", lambda: enumerate(value)),
        (r"dict\(str, (.+)\)", lambda: value.items()),
    ):
        if match := re.fullmatch(pattern, kind):
            for key, member in members():
                yield from kserve_faults(match[1], member, f"{place}.{key}")
            return
    if kind in PRIMITIVES:
        if not isinstance(value, PRIMITIVES[kind]):
            yield f"{place} is no {kind}: {value!r}"
        return
    model = getattr(MODELS, kind, None) or getattr(KUBERNETES, kind, None)
    if model is None:
        return  # quantities and the like
    fields = {model.attribute_map[name]: type_name for name, type_name in model.openapi_types.items()}
    for key, member in value.items():
        if key not in fields:
            yield f"{place} has no field {key}"
        else:
            yield from kserve_faults(fields[key], member, f"{place}.{key}")


def dropped(given: Any, kept: Any, place: str) -> Iterator[str]:
    """Yield what a model did not keep of its input."""
    if isinstance(given, dict):
        for key, member in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{place} has no field {key}"
            else:
                yield from dropped(member, kept[key], f"{place}.{key}")
    elif isinstance(given, list):
        for index, member in enumerate(given):
            yield from dropped(member, kept[index], f"{place}.{index}")


def model_faults(model: Any, document: dict[str, Any]) -> Iterator[str]:
    """Yield what a model refuses or does not know. Kubeflow's read quantities by `from_dict` only."""
    try:
        if hasattr(model, "from_dict"):
            kept = model.from_dict(document).to_dict()
        else:
            kept = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        yield str(error)
        return
    yield from dropped(document, kept, document["kind"])


def faults(document: dict[str, Any]) -> Iterator[str]:
    """Yield the faults of an object of one of the three projects."""
    group, _, version = document["apiVersion"].partition("/")
    kind = document["kind"]
    if group == "serving.kserve.io":
        yield from kserve_faults(f"{version[0].upper()}{version[1:]}{kind}", document, kind)
    elif group == "monitoring.coreos.com":
        models = importlib.import_module(f"cloudcoil.models.prometheus_operator.{version}")
        yield from model_faults(getattr(models, kind), document)
    elif group == "trainer.kubeflow.org":
        models = importlib.import_module("kubeflow_trainer_api.models")
        yield from model_faults(getattr(models, f"Trainer{version[0].upper()}{version[1:]}{kind}"), document)
    else:
        yield f"no models for {document['apiVersion']} {kind}"


if __name__ == "__main__":
    MODELS = kserve_models()
    KUBERNETES = importlib.import_module("kubernetes.client.models")
    found = []
    for document in json.load(sys.stdin):
        found += list(faults(document))
    json.dump(found, sys.stdout)
