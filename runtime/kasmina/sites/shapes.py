"""What modules tell of the tensors that they read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import nn


class Features(NamedTuple):
    """How many features a tensor has and whether they are on axis 1 (else on the last one)."""

    number: int
    channels_first: bool

    @property
    def axis(self) -> int:
        """The axis of the features."""
        return 1 if self.channels_first else -1


_CONVOLUTIONS = nn.modules.conv._ConvNd
# What hands on the features that it was given.
_TRANSPARENT = (
    nn.Identity,
    nn.Dropout,
    nn.AlphaDropout,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardswish,
    nn.Softmax,
)


def reads(module: nn.Module) -> Features | None:
    """What a module says of its input; None where it does not tell."""
    match module:
        case _CONVOLUTIONS():
            return Features(module.in_channels, True)
        case nn.Linear():
            return Features(module.in_features, False)
        case nn.RNNBase() | nn.RNNCellBase():
            return Features(module.input_size, False)
        case nn.Sequential():
            return _outermost(module.children(), reads)
        case nn.Embedding() | nn.EmbeddingBag() | nn.Bilinear():
            return None
    return writes(module)  # the others that tell keep their features


def writes(module: nn.Module) -> Features | None:
    """What a module says of its output; None where it does not tell."""
    match module:
        case _CONVOLUTIONS():
            return Features(module.out_channels, True)
        case nn.Linear() | nn.Bilinear():
            return Features(module.out_features, False)
        case nn.modules.batchnorm._NormBase():
            return Features(module.num_features, True)
        case nn.GroupNorm():
            return Features(module.num_channels, True)
        case nn.LayerNorm() | nn.RMSNorm():
            return Features(module.normalized_shape[-1], False)
        case nn.Embedding() | nn.EmbeddingBag():
            return Features(module.embedding_dim, False)
        case nn.RNNBase():
            width = module.proj_size or module.hidden_size
            return Features(width * (1 + module.bidirectional), False)
        case nn.RNNCellBase():
            return Features(module.hidden_size, False)
        case nn.MultiheadAttention():
            return Features(module.embed_dim, False)
        case nn.TransformerEncoderLayer() | nn.TransformerDecoderLayer():
            return Features(module.self_attn.embed_dim, False)
        case nn.TransformerEncoder() | nn.TransformerDecoder():
            return writes(module.layers[-1])
        case nn.Sequential():
            return _outermost(reversed(list(module.children())), writes)
    return None


def keeps_positions(module: nn.Module) -> bool:
    """Whether a channel-first module surely writes the positions that it reads."""
    match module:
        case nn.Sequential():
            return all(keeps_positions(child) for child in module)
        case _CONVOLUTIONS():
            if module.padding == "same":
                return True
            if any(module.output_padding):
                return False
            reach = zip(module.kernel_size, module.dilation, module.stride, strict=True)
            return not isinstance(module.padding, str) and all(
                stride == 1 and 2 * padding == dilation * (kernel - 1)
                for (kernel, dilation, stride), padding in zip(reach, module.padding, strict=True)
            )
    return isinstance(module, (*_TRANSPARENT, nn.modules.batchnorm._NormBase, nn.GroupNorm))


def _outermost(
    modules: Iterable[nn.Module], ask: Callable[[nn.Module], Features | None]
) -> Features | None:
    """What the first module that changes features tells; the ones before it hand them on."""
    for module in modules:
        if not isinstance(module, _TRANSPARENT):
            return ask(module)
    return None
