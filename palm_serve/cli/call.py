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
    chosen_credentials,
    chosen_token,
)
from palm_serve.cli.shared import faults, show

if TYPE_CHECKING:
    from palm_serve.v1 import palm_pb2 as pb


def call(
    text: Annotated[str, typer.Argument(help="The utterance; with --task, the sentence or question.")],
    target: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:50051",
    model: Annotated[str, typer.Option(help="Model name; default: the server's first.")] = "",
    version: Annotated[str, typer.Option(help="Version digest or label; default: stable.")] = "",
    task: Annotated[str, typer.Option(help="One task only (Predict), of any kind.")] = "",
    pair: Annotated[str, typer.Option(help="Second sentence or passage, for tasks on pairs; needs --task.")] = "",
    timeout: Annotated[float, typer.Option(min=0.001, help="Deadline, seconds.")] = 10.0,
    over_tls: OverTls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    plain_token: PlainToken = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Asks a running server about one text and prints intent, slots and the other answers."""
    if pair and not task:
        raise typer.BadParameter(
            "a pair of texts needs --task, the name of the task that reads it", param_hint="--pair"
        )
    with faults():
        from palm_serve.client import Client

        credentials = chosen_credentials(over_tls, tls_ca, tls_cert, tls_key)
        token = chosen_token(token_file)
        with Client(target, timeout_s=timeout, credentials=credentials, token=token, plain_token=plain_token) as client:
            answer = (
                client.predict(task, text, pair, model=model, version=version)
                if task
                else client.parse(text, model=model, version=version)
            )
    if as_json:
        from google.protobuf.json_format import MessageToJson

        whole = MessageToJson(
            answer,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            ensure_ascii=False,
        )
        typer.echo(whole)
        return
    _show_answer(answer)


def _show_answer(answer: "pb.ParseResponse | pb.PredictResponse") -> None:
    from rich.table import Table
    from rich.text import Text

    from palm_serve.v1 import palm_pb2 as pb

    table = Table(box=None, header_style="bold")
    for column in ("task", "answer", "value", "confidence"):
        table.add_column(column, justify="right" if column == "confidence" else "left")

    def add(task: str, name: str, value: str, confidence: float) -> None:
        # Text, because values may hold what rich takes for markup.
        table.add_row(Text(task), Text(name), Text(value), f"{confidence:.3f}")

    if isinstance(answer, pb.ParseResponse):
        if answer.HasField("intent"):
            fallback = (
                f"(fallback: {pb.Fallback.Reason.Name(answer.fallback.reason).lower()})"
                if answer.fallback.triggered
                else ""
            )
            add("intent", answer.intent.name, fallback, answer.intent.confidence)
        for slot in answer.slots:
            add("slot", slot.name, slot.value, slot.confidence)
        results = list(answer.results)
    else:
        results = [answer.result]
    for result in results:
        if result.HasField("classification"):
            add(result.task, result.classification.label.name, "", result.classification.label.confidence)
        elif result.HasField("spans"):
            for span in result.spans.spans:
                add(result.task, span.name, span.value, span.confidence)
        elif result.HasField("match"):
            add(result.task, result.match.label.name or "match", "", result.match.score)
        elif result.HasField("answer"):
            found = result.answer
            add(result.task, "no answer" if found.no_answer else "answer", found.text, found.confidence)
    show(table, *(["the text is longer than the model reads; its end was not seen"] if answer.truncated else []))
