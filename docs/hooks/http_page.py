"""The page of the HTTP API, made from the description that the service itself serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from search.service.api.app import ROUTERS

_START = """\
# HTTP API

`espalier serve` offers this API; it describes itself at `/openapi.json`, which says all that
follows here, and every field, to programs. Requests with tokens carry `Authorization: Bearer TOKEN`
([who may do what](../how-to/service-access.md)). Errors are
[problem details](https://www.rfc-editor.org/rfc/rfc9457): JSON with `title`, `status` and `detail`,
and `field` where one setting is wrong. In Python, [`search.Client`](python/search.md) calls what is
about searches and architectures; [The service](../how-to/service.md) shows it with `curl`.
"""


def pages() -> Iterator[tuple[str, tuple[str, str]]]:
    """The one page, with its title."""
    yield "reference/http.md", ("HTTP API", "\n".join([_START, *_lines(_description())]))


def _description() -> dict[str, Any]:
    app = FastAPI(title="Espalier")
    for router in ROUTERS:
        app.include_router(router)
    return app.openapi()


def _lines(description: Mapping[str, Any]) -> Iterator[str]:
    schemas = description["components"]["schemas"]
    tag = ""
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if operation.get("tags", [""])[0] != tag:
                tag = operation["tags"][0]
                yield f"\n## {tag.capitalize()}\n"
            yield from _operation(f"{method.upper()} {path}", operation, schemas)
    yield "\n## What answers hold\n"
    for name, schema in schemas.items():
        if "properties" in schema and "ValidationError" not in name:
            yield from _schema(name, schema)


def _operation(
    title: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> Iterator[str]:
    yield f"\n### `{title}`\n"
    yield operation.get("description") or operation.get("summary", "")
    if parameters := operation.get("parameters"):
        yield "\n| parameter | in | type | meaning |\n| --- | --- | --- | --- |"
        for parameter in parameters:
            required = ", required" if parameter.get("required") else ""
            yield (
                f"| `{parameter['name']}` | {parameter['in']}{required} | "
                f"{_type(parameter['schema'])} | {_cell(parameter.get('description', ''))} |"
            )
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        yield f"\nBody: {kinds}."
    answers = {status: operation["responses"][status] for status in sorted(operation["responses"])}
    for status, answer in answers.items():
        if status < "300":
            yield f"\n- **{status}** {_answer(answer, schemas)}"
    if refusals := [status for status in answers if status >= "300"]:
        yield f"- refused with {', '.join(refusals)}"


def _answer(response: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """What a response is, with the schema of its JSON."""
    text = _cell(response.get("description", "")).replace("Successful Response", "answers")
    content = response.get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    if "properties" in schemas.get(name, {}) and "ValidationError" not in name:
        return f"{text}: {_type(schema)}"
    kinds = ", ".join(f"`{kind}`" for kind in content)
    return f"{text} with {kinds}" if kinds else text


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n### {name}\n"
    yield schema.get("description", "")
    yield "\n| field | type | meaning |\n| --- | --- | --- |"
    for field, value in schema["properties"].items():
        yield f"| `{field}` | {_type(value)} | {_cell(value.get('description', ''))} |"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON type in words, with a link to what is described on this page."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if values := schema.get("enum"):
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("const", schema.get("type", "any")))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
