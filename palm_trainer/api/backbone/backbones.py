"""Encoders of the Python API: BERT, ERNIE, RoBERTa and XLNet from JSON configurations.

Their weights are random until `load_pretrain`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    ErnieConfig,
    ErnieModel,
    RobertaConfig,
    RobertaModel,
    XLNetConfig,
    XLNetModel,
)

from palm_trainer.api.compat import accept_unused
from palm_trainer.api.phase import Phase, check_phase
from palm_trainer.config.mappings import absent, select_keys
from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders.encoder import Encoder

_REQUIRED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
_LAYER_NORM_EPS = 1e-6
"""Value of the original PALM, unless the configuration sets `layer_norm_eps`."""


def _required(config: Mapping[str, Any], keys: tuple[str, ...], name: str) -> dict[str, Any]:
    missing = absent(keys, config)
    if missing:
        raise ConfigError(
            f"{name}.from_config: the configuration lacks {', '.join(missing)}. "
            f"Pass the contents of the model's own JSON file. This one has: {', '.join(config) or 'nothing'}."
        )
    return select_keys(config, keys)


def _types(config: Mapping[str, Any], name: str) -> int:
    """Return the number of segment types, under the name of PALM or of Google."""
    for key in ("sent_type_vocab_size", "type_vocab_size"):
        if key in config:
            return int(config[key])
    raise ConfigError(
        f"{name}.from_config: the configuration lacks type_vocab_size (or sent_type_vocab_size). Write 2."
    )


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that PALM fixed, unless the configuration sets them."""
    overrides = select_keys(config, ("intermediate_size", "layer_norm_eps", "pad_token_id"))
    return {
        "intermediate_size": 4 * config["hidden_size"],
        "layer_norm_eps": _LAYER_NORM_EPS,
        "pad_token_id": 0,
        **overrides,
    }


class _Declared(Encoder):
    """Base of the encoders: PALM's phase."""

    def __init__(
        self, encoder: nn.Module, phase: Phase, *, takes_types: bool, pooling: Literal["cls", "mean"] = "cls"
    ) -> None:
        check_phase(type(self).__name__, phase, error=ConfigError)
        super().__init__(encoder, pooling=pooling, takes_types=takes_types)
        self.phase = phase
        self.train(phase == "train")


@accept_unused(is_pairwise="initializer_range")
class BERT(_Declared):
    """BERT (Devlin et al. 2019), which RoBERTa-zh also is.

    The arguments have the names of the JSON file. `hugging_face` takes further arguments of `BertConfig`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        vocab_size: int,
        max_position_embeddings: int,
        type_vocab_size: int,
        hidden_act: str,
        hidden_dropout_prob: float,
        attention_probs_dropout_prob: float,
        initializer_range: float,
        phase: Phase = "train",
        **hugging_face: Any,
    ) -> None:
        config = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "vocab_size": vocab_size,
            "max_position_embeddings": max_position_embeddings,
            "type_vocab_size": type_vocab_size,
            "hidden_act": hidden_act,
            "hidden_dropout_prob": hidden_dropout_prob,
            "attention_probs_dropout_prob": attention_probs_dropout_prob,
            "initializer_range": initializer_range,
            **hugging_face,
        }
        settings = BertConfig(**_shape(config) | config)
        settings._attn_implementation = "eager"
        super().__init__(BertModel(settings, add_pooling_layer=False), phase, takes_types=settings.type_vocab_size > 1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], phase: Phase = "train") -> "BERT":
        """Build the encoder from a BERT-style dict. Raises ConfigError that names every missing key."""
        required = _required(config, _REQUIRED, "BERT")
        return cls(phase=phase, **required, **_shape(config), type_vocab_size=_types(config, "BERT"))


@accept_unused(is_pairwise="initializer_range")
class ERNIE(_Declared):
    """ERNIE 1.0 and 2.0 (Sun et al. 2019): BERT with a task embedding.

    The task embedding starts at zero, so that weights without one (ERNIE 1.0, BERT) fit.
    """

    def __init__(
        self,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        vocab_size: int,
        max_position_embeddings: int,
        sent_type_vocab_size: int,
        task_type_vocab_size: int,
        hidden_act: str,
        hidden_dropout_prob: float,
        attention_probs_dropout_prob: float,
        initializer_range: float,
        use_task_emb: bool = True,
        phase: Phase = "train",
        **hugging_face: Any,
    ) -> None:
        config = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "vocab_size": vocab_size,
            "max_position_embeddings": max_position_embeddings,
            "type_vocab_size": sent_type_vocab_size,
            "task_type_vocab_size": task_type_vocab_size,
            "hidden_act": hidden_act,
            "hidden_dropout_prob": hidden_dropout_prob,
            "attention_probs_dropout_prob": attention_probs_dropout_prob,
            "initializer_range": initializer_range,
            **hugging_face,
        }
        settings = ErnieConfig(**_shape(config) | config, use_task_id=use_task_emb)
        settings._attn_implementation = "eager"
        encoder = ErnieModel(settings, add_pooling_layer=False)
        if use_task_emb:
            nn.init.zeros_(encoder.embeddings.task_type_embeddings.weight)
        super().__init__(encoder, phase, takes_types=settings.type_vocab_size > 1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], phase: Phase = "train") -> "ERNIE":
        """Build the encoder from an ERNIE-style or BERT-style dict. Raises ConfigError that names every missing key."""
        required = _required(config, _REQUIRED, "ERNIE")
        types = _types(config, "ERNIE")
        tasks = int(config.get("task_type_vocab_size", config.get("type_vocab_size", types)))
        return cls(
            phase=phase,
            use_task_emb=bool(config.get("use_task_emb", True)),
            **required,
            **_shape(config),
            sent_type_vocab_size=types,
            task_type_vocab_size=tasks,
        )


class RoBERTa(_Declared):
    """RoBERTa (Liu et al. 2019) of fairseq and Hugging Face. The Chinese RoBERTa-wwm models are `BERT`."""

    def __init__(self, *, phase: Phase = "train", **config: Any) -> None:
        settings = RobertaConfig(**{**_shape(config), "pad_token_id": 1, **config})
        settings._attn_implementation = "eager"
        super().__init__(
            RobertaModel(settings, add_pooling_layer=False), phase, takes_types=settings.type_vocab_size > 1
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], phase: Phase = "train") -> "RoBERTa":
        """Build the encoder from a BERT-style dict. Raises ConfigError that names every missing key."""
        required = _required(config, _REQUIRED, "RoBERTa")
        shape = {**_shape(config), "pad_token_id": config.get("pad_token_id", 1)}
        return cls(phase=phase, **required, **shape, type_vocab_size=_types(config, "RoBERTa"))


class XLNet(_Declared):
    """XLNet (Yang et al. 2019). The vector of a text is the mean over its pieces, since the summary token is the last."""

    def __init__(self, *, phase: Phase = "train", **config: Any) -> None:
        settings = XLNetConfig(**config, use_mems_eval=False, mem_len=None)
        settings._attn_implementation = "eager"
        super().__init__(XLNetModel(settings), phase, takes_types=True, pooling="mean")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], phase: Phase = "train") -> "XLNet":
        """Build the encoder from XLNet's JSON (`n_token` or `vocab_size`). Raises ConfigError that names every missing key."""
        config = dict(config)
        if "n_token" in config:
            config["vocab_size"] = config.pop("n_token")
        required = _required(
            config, ("d_model", "n_layer", "n_head", "d_inner", "ff_activation", "vocab_size"), "XLNet"
        )
        optional = ("dropout", "initializer_range", "layer_norm_eps", "pad_token_id")
        overrides = select_keys(config, optional)
        return cls(phase=phase, **required, **overrides)
