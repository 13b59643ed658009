"""The HTTP routes, from the description that the server gives at /openapi.json."""

from typing import Any

from palm_serve.http.openapi import openapi
from reference_pages.markdown import code, paragraphs, prose, table
from reference_pages.schema_tables import keys_of, models_of


def routes() -> str:
    """Return the table of routes."""
    rows = []
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            query = [item["name"] for item in operation.get("parameters", ()) if item["in"] == "query"]
            body = operation.get("requestBody")
            request = _model(body["content"]["application/json"]["schema"]) if body else ""
            answer = _model(operation["responses"]["200"]["content"]["application/json"]["schema"])
            route = code(f"{method.upper()} {path}")
            rows.append([route, prose(operation["summary"]), ", ".join(map(code, query)), request, answer])
    return table(["route", "what it does", "query", "request", "answer"], rows)


def models() -> str:
    """Return a table of keys for each request and answer."""
    definitions = openapi()["components"]["schemas"]
    classes = models_of("palm_serve.http.")
    sections = []
    for name, definition in definitions.items():
        if name in classes:
            sections.append(keys_of(name, classes[name], definition, definitions))
    return paragraphs(*sections)


def _model(schema: dict[str, Any]) -> str:
    if "items" in schema:
        return f"list of {_model(schema['items'])}"
    if "anyOf" in schema:
        return " or ".join(map(_model, schema["anyOf"]))
    name = schema["$ref"].rpartition("/")[2]
    return f"[{name}](#{name.lower()})"
