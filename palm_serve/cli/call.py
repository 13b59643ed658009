"""`palm-serve call`."""

from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.cli.connection import (
    OverTls,
    PlainToken,
    TlsCa,
    TlsCert,
    TlsKey,
    TokenFile,
    find_token,
    read_credentials,
)
from palm_serve.cli.shared import report_errors, show, write_line
from palm_serve.system.plain_text import plain, plain_json

if TYPE_CHECKING:
    from rich.table import Table

    from palm_serve.v1 import palm_pb2 as pb


def call(
    text: Annotated[str, typer.Argument(help="The utterance. With --task: the sentence or question.")],
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the server, or unix:PATH.")
    ] = "127.0.0.1:50051",
    model: Annotated[str, typer.Option(help="Model name. Default: the first model of the server.")] = "",
    version: Annotated[str, typer.Option(help="Version digest or label. Default: stable.")] = "",
    task: Annotated[str, typer.Option(help="Run only this task, of any kind (Predict).")] = "",
    pair: Annotated[str, typer.Option(help="Second sentence or passage of a task on pairs. Requires --task.")] = "",
    context: Annotated[
        list[str] | None,
        typer.Option(metavar="TURN", help="Earlier turn of the dialogue, the newest last. May be given several times."),
    ] = None,
    requested_slot: Annotated[
        list[str] | None,
        typer.Option(metavar="SLOT", help="Slot that the system has asked for. May be given several times."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, max=1e6, help="Deadline in seconds.")] = 10.0,
    over_tls: OverTls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    plain_token: PlainToken = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the complete response as JSON.")] = False,
) -> None:
    """Send one text to a running server and print its answers.

    The answers are its intent, its slots and those of all other tasks.
    """
    if pair and not task:
        raise typer.BadParameter("requires --task, the name of a task on pairs of texts", param_hint="--pair")
    with report_errors():
        from palm_serve.client import Client, PredictFields
        from palm_serve.v1 import palm_pb2 as pb

        credentials = read_credentials(over_tls, tls_ca, tls_cert, tls_key)
        token = find_token(token_file)
        with Client(target, timeout_s=timeout, credentials=credentials, token=token, plain_token=plain_token) as client:
            fields = PredictFields(model=model, version=version)
            if context or requested_slot:
                fields["context"] = pb.Context(turns=context, requested_slots=requested_slot)
            response = client.predict(task, text, pair, **fields) if task else client.parse(text, **fields)
    if as_json:
        write_line(_as_json(response))
    else:
        _show_response(response)


def _as_json(response: "pb.ParseResponse | pb.PredictResponse") -> str:
    from google.protobuf.json_format import MessageToJson

    text: str = MessageToJson(
        response,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
    )
    return plain_json(text)


def _show_response(response: "pb.ParseResponse | pb.PredictResponse") -> None:
    from rich.table import Table

    from palm_serve.v1 import palm_pb2 as pb

    table = Table(box=None, header_style="bold")
    for column in ("task", "answer", "value", "confidence"):
        table.add_column(column, justify="right" if column == "confidence" else "left")
    if isinstance(response, pb.ParseResponse):
        if response.HasField("intent"):
            _add_intent(table, response)
        for slot in response.slots:
            _add_span(table, "slot", slot)
        results = list(response.results)
    else:
        results = [response.result]
    for result in results:
        _add_result(table, result)
    show(table)
    if response.truncated:
        show("The text is longer than the model's limit. Its end was not read.")


def _add_intent(table: "Table", response: "pb.ParseResponse") -> None:
    from palm_serve.v1 import palm_pb2 as pb

    fallback = ""
    if response.fallback.triggered:
        fallback = f"(fallback: {pb.Fallback.Reason.Name(response.fallback.reason).lower()})"
    _add_row(table, "intent", response.intent.name, fallback, response.intent.confidence)


def _add_result(table: "Table", result: "pb.TaskResult") -> None:
    if result.HasField("classification"):
        label = result.classification.label
        _add_row(table, result.task, label.name, "", label.confidence)
    elif result.HasField("spans"):
        for span in result.spans.spans:
            _add_span(table, result.task, span)
    elif result.HasField("match"):
        _add_row(table, result.task, result.match.label.name or "match", "", result.match.score)
    elif result.HasField("answer"):
        answer = result.answer
        _add_row(table, result.task, "no answer" if answer.no_answer else "answer", answer.text, answer.confidence)


def _add_span(table: "Table", task: str, span: "pb.Span") -> None:
    from palm_serve.bundle.span_types import span_label

    name = span_label(span.name, span.role, span.group) if span.role or span.group else span.name
    value = f"{span.value} ({span.resolved.canonical})" if span.HasField("resolved") else span.value
    _add_row(table, task, name, value, span.confidence)


def _add_row(table: "Table", task: str, name: str, value: str, confidence: float) -> None:
    table.add_row(plain(task), plain(name), plain(value), f"{confidence:.3f}")
