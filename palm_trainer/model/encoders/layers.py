"""What of an encoder lies how deep: its embeddings, its blocks from the lowest on, and what stands above them. Found generically, for every family."""

from dataclasses import dataclass

from torch import nn

from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders.encoder import Encoder


@dataclass(frozen=True)
class EncoderLayers:
    """The parameters of an encoder, each exactly once.

    `blocks` are the transformer's layers from the lowest on; ALBERT, whose layers share their weights, has one.
    `embeddings` is what feeds them (tables of relative positions included), `top` what stands above (a final normalization).
    """

    embeddings: list[nn.Parameter]
    blocks: list[list[nn.Parameter]]
    top: list[nn.Parameter]


def encoder_layers(backbone: Encoder) -> EncoderLayers:
    """Sorts an encoder's parameters by depth. Raises ConfigError where no list of blocks is found."""
    encoder = backbone.encoder
    blocks = _blocks(encoder)
    members = [list(block.parameters()) for block in blocks]
    inside = {id(parameter) for block in members for parameter in block}
    tables = {
        id(parameter)
        for module in encoder.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    embeddings: list[nn.Parameter] = []
    top: list[nn.Parameter] = []
    below = True  # until the blocks come: modules are registered in the order of the forward pass
    for parameter in encoder.parameters():
        if id(parameter) in inside:
            below = False
        elif below or id(parameter) in tables:
            embeddings.append(parameter)
        else:
            top.append(parameter)
    return EncoderLayers(embeddings, members, top)


def _blocks(encoder: nn.Module) -> nn.ModuleList:
    """The one outermost list of modules: an entry a layer, or a group of layers that share weights."""
    lists = [(name, m) for name, m in encoder.named_modules() if isinstance(m, nn.ModuleList) and list(m.parameters())]
    outer = [own for name, own in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    if len(outer) != 1:
        raise ConfigError(
            f"encoder: {type(encoder).__name__} holds {len(outer)} lists of blocks, not one, so that their depth is unknown. "
            "Leave out train.regularization.layer_decay, train.freeze_layers, train.freeze_embeddings and balancing method = 'gradnorm'."
        )
    return outer[0]


def rate_factors(backbone: Encoder, decay: float) -> dict[nn.Parameter, float]:
    """Layer-wise decay (Howard and Ruder 2018): 1 for the highest block and what stands above, `decay` less for each block below, the embeddings last."""
    layers = encoder_layers(backbone)
    count = len(layers.blocks)
    factors = dict.fromkeys(layers.top, 1.0)
    for depth, block in enumerate(layers.blocks):
        factors.update(dict.fromkeys(block, decay ** (count - 1 - depth)))
    return {**factors, **dict.fromkeys(layers.embeddings, decay**count)}


def freeze_layers(backbone: Encoder, *, blocks: int = 0, embeddings: bool = False) -> None:
    """Takes the lowest blocks, and the embeddings, out of the training. Raises ConfigError for more blocks than there are."""
    if not blocks and not embeddings:
        return
    layers = encoder_layers(backbone)
    if blocks > len(layers.blocks):
        raise ConfigError(
            f"train.freeze_layers: {blocks}, but the encoder has {len(layers.blocks)} blocks. Choose {len(layers.blocks)} or less."
        )
    frozen = [parameter for block in layers.blocks[:blocks] for parameter in block]
    for parameter in frozen + (layers.embeddings if embeddings else []):
        parameter.requires_grad_(False)
