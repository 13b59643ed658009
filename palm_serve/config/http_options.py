"""Options of the HTTP door."""

from pydantic import Field

from palm_serve.config.option_group import OptionGroup


class HttpOptions(OptionGroup):
    """HTTP"""

    http_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Also answer HTTP on this port: the Open Inference Protocol's REST, Rasa's and Hugging Face's JSON, Connect, gRPC-Web, metrics. "
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
