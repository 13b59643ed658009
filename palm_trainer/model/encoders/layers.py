"""Depth of an encoder's parameters: embeddings, blocks from the lowest up, and the layers above.

Works for every family.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders.encoder import Encoder


@dataclass(frozen=True)
class EncoderLayers:
    """The parameters of an encoder, each exactly once.

    Args:
        embeddings: parameters below the blocks, and tables of relative positions.
        blocks: parameters of each transformer layer, from the lowest up. ALBERT, whose layers share
            weights, has one.
        top: parameters above the blocks, such as a final normalization.
    """

    embeddings: list[nn.Parameter]
    blocks: list[list[nn.Parameter]]
    top: list[nn.Parameter]


def encoder_layers(backbone: Encoder) -> EncoderLayers:
    """Sort an encoder's parameters by depth.

    Raises:
        ConfigError: no list of blocks is found.
    """
    encoder = backbone.encoder
    blocks = [list(block.parameters()) for block in _blocks(encoder)]
    block_ids: set[int] = set()
    for block in blocks:
        block_ids |= _ids(block)
    table_ids: set[int] = set()
    for module in encoder.modules():
        if isinstance(module, nn.Embedding):
            table_ids |= _ids(module.parameters())
    embeddings: list[nn.Parameter] = []
    top: list[nn.Parameter] = []
    is_below = True  # until the first block: modules are registered in the order of the forward pass
    for parameter in encoder.parameters():
        if id(parameter) in block_ids:
            is_below = False
        elif is_below or id(parameter) in table_ids:
            embeddings.append(parameter)
        else:
            top.append(parameter)
    return EncoderLayers(embeddings, blocks, top)


def _ids(parameters: Iterable[nn.Parameter]) -> set[int]:
    return {id(parameter) for parameter in parameters}


def outermost_lists(encoder: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the lists of modules that stand in no other list, by name.

    Most encoders have one, which has an entry for each layer or group of layers.
    """
    lists = {}
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and list(module.parameters()):
            lists[name] = module
    outermost = {}
    for name, module in lists.items():
        if not any(name.startswith(f"{other_name}.") for other_name in lists):
            outermost[name] = module
    return outermost


def _blocks(encoder: nn.Module) -> nn.ModuleList:
    """Return the only outermost list of modules."""
    outermost = list(outermost_lists(encoder).values())
    if len(outermost) != 1:
        raise ConfigError(
            f"encoder: {type(encoder).__name__} holds {len(outermost)} lists of blocks, not one, "
            "so that their depth is unknown. "
            "Leave out train.regularization.layer_decay, train.freeze_layers, train.freeze_embeddings "
            "and balancing method = 'gradnorm'."
        )
    return outermost[0]


def rate_factors(backbone: Encoder, decay: float) -> dict[nn.Parameter, float]:
    """Compute layer-wise learning rates (Howard and Ruder 2018).

    Returns:
        Factor for each parameter: 1 for the highest block and above, times `decay` for each block
        below, and lowest for the embeddings.
    """
    layers = encoder_layers(backbone)
    count = len(layers.blocks)
    factors = dict.fromkeys(layers.top, 1.0)
    for depth, block in enumerate(layers.blocks):
        factors.update(dict.fromkeys(block, decay ** (count - 1 - depth)))
    return {**factors, **dict.fromkeys(layers.embeddings, decay**count)}


def freeze_layers(backbone: Encoder, *, blocks: int = 0, embeddings: bool = False) -> None:
    """Exclude the lowest blocks and the embeddings from training.

    Args:
        backbone: encoder to freeze.
        blocks: number of lowest blocks to freeze.
        embeddings: also freeze the embeddings.

    Raises:
        ConfigError: the encoder has fewer blocks.
    """
    if not blocks and not embeddings:
        return
    layers = encoder_layers(backbone)
    if blocks > len(layers.blocks):
        raise ConfigError(
            f"train.freeze_layers must be at most {len(layers.blocks)}, the number of blocks in the encoder, "
            f"got {blocks}. Choose {len(layers.blocks)} or less."
        )
    frozen = list(layers.embeddings) if embeddings else []
    for block in layers.blocks[:blocks]:
        frozen += block
    for parameter in frozen:
        parameter.requires_grad_(False)
