"""Types and limits of JSON schema in words."""

from typing import Any

from reference_pages.markdown import code

_WORDS = {
    "boolean": "`true` or `false`",
    "integer": "integer",
    "number": "number",
    "string": "text",
    "object": "table",
    "null": "null",
}

_SIGNS = {
    "minimum": "\N{GREATER-THAN OR EQUAL TO}",
    "exclusiveMinimum": ">",
    "maximum": "\N{LESS-THAN OR EQUAL TO}",
    "exclusiveMaximum": "<",
}


def type_in_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a value with its limits, as Markdown.

    Args:
        schema: the JSON schema of the value.
        definitions: the schemas that it may refer to, by name.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = definitions[name]
        return type_in_words(target, definitions) if "enum" in target else f"table {code(name)}"
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(value) if value != "" else "empty" for value in schema["enum"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _several(schema[word], definitions)
    if schema.get("type") == "array":
        return _list(schema, definitions)
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"table of {_grouped(schema['additionalProperties'], definitions)} by name"
    if schema.get("format") == "path":
        return "path"
    return f"{_WORDS[schema['type']]}{_limits(schema)}"


def _several(schemas: list[dict[str, Any]], definitions: dict[str, Any]) -> str:
    words = [type_in_words(item, definitions) for item in schemas if item != {"type": "null"}]
    return " or ".join(dict.fromkeys(words))


def _list(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    items = schema.get("items") or (schema.get("prefixItems") or [{"type": "string"}])[0]
    return f"list of {_grouped(items, definitions)}"


def _grouped(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    words = type_in_words(schema, definitions)
    return f"({words})" if len(schema.get("anyOf", ())) > 1 else words


def _limits(schema: dict[str, Any]) -> str:
    schema = {key: value for key, value in schema.items() if not _is_size_of_number(value)}
    if "minimum" in schema and "maximum" in schema:
        return f", {_figure(schema['minimum'])} to {_figure(schema['maximum'])}"
    limits = []
    for key, sign in _SIGNS.items():
        if key in schema:
            limits.append(f", {sign}\N{NO-BREAK SPACE}{_figure(schema[key])}")
    return "".join(limits)


def _is_size_of_number(value: object) -> bool:
    """Return True for a limit that says only how many bits a number has."""
    return isinstance(value, int) and abs(value) >= 2**31 - 1


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
