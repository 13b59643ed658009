"""Options of the HTTP door."""

from pathlib import Path

from pydantic import Field, model_validator

from palm_serve.config.option_group import OptionGroup


class HttpOptions(OptionGroup):
    """HTTP"""

    http_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Also answer HTTP on this port: the Open Inference Protocol's REST, Rasa's and Hugging Face's JSON, Connect, gRPC-Web, metrics, "
        "and to browsers the playground. "
        "0: any free port, which is printed. It listens on --host, or on 127.0.0.1 where that is a Unix socket, and has the TLS, "
        "tokens and limits of gRPC.",
    )
    http_allow_host: str | None = Field(
        default=None,
        description="Host names of this server, separated by commas, besides localhost, --host, the name of the machine and "
        "addresses. Requests with another Host are refused, which protects browsers from DNS rebinding. *: any.",
    )
    http_allow_origin: str | None = Field(
        default=None,
        description="Origins whose pages may call the server from a browser (CORS), separated by commas, as in "
        "https://app.example. *: any. Default: none.",
    )
    rasa_fallback_intent: str = Field(
        default="nlu_fallback",
        min_length=1,
        description="Intent that POST /model/parse answers, before the ranking of the others, where the fallback is triggered. "
        "off: answer the best intent.",
    )
    feedback: Path | None = Field(
        default=None,
        description="File to which the playground appends corrected answers, one a line, which palm-train reads as jsonl. "
        "With --tokens it takes the scope 'feedback'. Default: nothing is saved.",
    )

    @model_validator(mode="after")
    def _has_door(self) -> "HttpOptions":
        if self.feedback is not None and self.http_port is None:
            raise ValueError("feedback requires http_port, where the playground is served. Set both.")
        return self
