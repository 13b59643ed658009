"""A smaller encoder that begins with a part of another's weights: some of its layers, narrower ones, fewer pieces."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders.encoder import Encoder
from palm_trainer.model.encoders.layers import outermost_lists
from palm_trainer.model.encoders.load_pretrained import LoadedEncoder, new_encoder
from palm_trainer.tokenization.prune_vocabulary import CutVocabulary

_KEY = "train.distillation.student"
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")


def choose_layers(total: int, count: int) -> list[int]:
    """Choose evenly distributed layers, the last among them: 1, 3, 5 of 6.

    Args:
        total: layers of the encoder.
        count: layers to choose, at most `total`.
    """
    return [(number + 1) * total // count - 1 for number in range(count)]


def cut_layers(encoder: LoadedEncoder, layers: int | None, intermediate_size: int | None) -> LoadedEncoder:
    """Return the encoder with fewer layers and narrower feed-forward layers. Torch's generator stays as it is.

    Args:
        encoder: stays as it is.
        layers: number of layers. None: all.
        intermediate_size: width of the feed-forward layers. None: as it is.

    Raises:
        ConfigError: the encoder is smaller, or of a form that cannot be cut.
    """
    network = encoder.backbone.encoder
    name, blocks = _find_blocks(network)
    total = len(blocks)
    if layers is not None and layers > total:
        raise ConfigError(
            f"{_KEY}.layers must be at most {total}, the number of layers of '{encoder.name}', got {layers}. "
            f"Choose {total} or less."
        )
    layer_numbers = choose_layers(total, layers or total)
    weights = _keep_blocks(network.state_dict(), name, layer_numbers)
    settings = _settings_for_layers(network, layer_numbers)
    if intermediate_size is not None:
        _check_width(encoder.name, network, intermediate_size)
        for number, index in enumerate(layer_numbers):
            block = blocks[index]
            prefix = f"{name}.{number}."
            weights |= _narrow(_choose_feed_forward(network, block), weights, prefix, intermediate_size)
        settings.intermediate_size = intermediate_size
    return replace(encoder, backbone=_build(encoder.backbone, settings, weights))


def cut_pieces(encoder: LoadedEncoder, vocabulary: CutVocabulary) -> LoadedEncoder:
    """Return the encoder with the embeddings of the kept pieces only. Torch's generator stays as it is.

    Args:
        encoder: stays as it is.
        vocabulary: result of `prune_vocabulary` on its tokenizer.
    """
    network = encoder.backbone.encoder
    table = encoder.backbone.embedding_table
    settings: Any = copy.deepcopy(network.config)
    settings.vocab_size = len(vocabulary.old_ids)
    new_ids = {old: new for new, old in enumerate(vocabulary.old_ids)}
    for key in _IDS:
        old = getattr(settings, key, None)
        if isinstance(old, int):
            setattr(settings, key, new_ids.get(old))
    weights = {}
    for name, tensor in network.state_dict().items():
        is_table = tensor.data_ptr() == table.data_ptr() and tensor.shape == table.shape
        weights[name] = tensor[list(vocabulary.old_ids)] if is_table else tensor
    backbone = _build(encoder.backbone, settings, weights)
    return replace(
        encoder,
        backbone=backbone,
        tokenizer_json=vocabulary.tokenizer_json,
        pad_token_id=new_ids[encoder.pad_token_id],
    )


def _find_blocks(network: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the list of layers with its name in the encoder."""
    lists = outermost_lists(network)
    layers = int(getattr(network.config, "num_hidden_layers", 0) or 0)
    if len(lists) != 1 or len(next(iter(lists.values()))) != layers:
        raise _cannot_cut(network, "its layers share weights, or do not stand in one list")
    return next(iter(lists.items()))


def _cannot_cut(network: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"{_KEY} needs an encoder whose layers can be cut, got a {type(network).__name__}: {reason}. "
        "Leave out layers and intermediate_size, or train the teacher on an encoder such as BERT or RoBERTa."
    )


def _keep_blocks(weights: dict[str, Tensor], name: str, layer_numbers: Sequence[int]) -> dict[str, Tensor]:
    """Return the weights without the other blocks of a list, and the chosen ones counted anew."""
    new_numbers = {old: new for new, old in enumerate(layer_numbers)}
    kept_weights = {}
    for key, tensor in weights.items():
        if not key.startswith(f"{name}."):
            kept_weights[key] = tensor
            continue
        number, _, parameter = key.removeprefix(f"{name}.").partition(".")
        if int(number) in new_numbers:
            kept_weights[f"{name}.{new_numbers[int(number)]}.{parameter}"] = tensor
    return kept_weights


def _settings_for_layers(network: nn.Module, layer_numbers: Sequence[int]) -> Any:
    """Return the configuration of an encoder with some of the layers. Lists with an entry a layer keep those entries."""
    settings: Any = copy.deepcopy(network.config)
    total = int(settings.num_hidden_layers)
    for key, value in settings.to_dict().items():
        if isinstance(value, list) and len(value) == total:
            setattr(settings, key, [value[index] for index in layer_numbers])
    settings.num_hidden_layers = len(layer_numbers)
    return settings


def _check_width(name: str, network: nn.Module, intermediate_size: int) -> None:
    width = getattr(network.config, "intermediate_size", None)
    if not isinstance(width, int):
        raise _cannot_cut(network, "it has no intermediate_size")
    if intermediate_size > width:
        raise ConfigError(
            f"{_KEY}.intermediate_size must be at most {width}, the width of '{name}', got {intermediate_size}. "
            f"Choose {width} or less."
        )


def _choose_feed_forward(network: nn.Module, block: nn.Module) -> tuple[str, str]:
    """Return the names of the layers of a block that lead into and out of its intermediate units."""
    width = network.config.intermediate_size  # type: ignore[union-attr]
    into, out_of = [], []
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == width != module.in_features:
            into.append(name)
        elif isinstance(module, nn.Linear) and module.in_features == width != module.out_features:
            out_of.append(name)
    if len(into) != 1 or len(out_of) != 1:
        raise _cannot_cut(network, "its feed-forward layers are not two matrices")
    return into[0], out_of[0]


def _narrow(names: tuple[str, str], weights: dict[str, Tensor], prefix: str, size: int) -> dict[str, Tensor]:
    """Return the weights of a feed-forward layer with the units whose weights are largest.

    Args:
        names: of the matrices that lead into and out of the units, in a block.
        weights: of the encoder.
        prefix: of the block.
        size: number of units.
    """
    into, out_of = (f"{prefix}{name}" for name in names)
    strength = weights[f"{into}.weight"].norm(dim=1) * weights[f"{out_of}.weight"].norm(dim=0)
    units = strength.topk(size).indices.sort().values
    narrowed = {
        f"{into}.weight": weights[f"{into}.weight"][units],
        f"{out_of}.weight": weights[f"{out_of}.weight"][:, units],
    }
    if f"{into}.bias" in weights:
        narrowed[f"{into}.bias"] = weights[f"{into}.bias"][units]
    return narrowed


def _build(backbone: Encoder, settings: Any, weights: dict[str, Tensor]) -> Encoder:
    """Build an encoder with some weights, which must be all that it has."""
    with torch.random.fork_rng(devices=[]):
        try:
            network = new_encoder(settings)
            network.load_state_dict(weights)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise _cannot_cut(backbone.encoder, reason.rstrip(".")) from error
    takes_types = any(spec.name == "token_type_ids" for spec in backbone.inputs)
    return Encoder(network, pooling=backbone.pooling, takes_types=takes_types)
