"""Characters of Python's own sources: text that is on every machine, so nothing is downloaded.

The files are the modules at the top of the standard library, by name; the text, and so the
figures, differ a little between Python versions. Whole files go to a split, so no line of a test
file was seen in training.
"""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kasmina.growth.task import Data, Task, accuracy, adamw_cosine, cross_entropy, seeded
from kasmina.tasks.data import BadData, Split, SplitData
from kasmina.tasks.growing import any_kind

if TYPE_CHECKING:
    from kasmina.sites import Site

CONTEXT = 64  # characters that the model sees at once
LAYERS = 2
WIDTH = 16  # 8705 parameters
BUDGET = 40_000
LAYOUT = ("sequence", CONTEXT)  # at any width
EPOCHS = 216  # of 8 batches of 32, drawn from about 105
EPOCH = 8
BATCH = 32
FILE_CHARACTERS = 4096  # taken of each file, so that no large module rules the text
SPLIT_CHARACTERS = {"train": 220_000, "validation": 12_000, "test": 24_000}  # at most

# Token 0 stands for whatever is neither printable ASCII nor a newline.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(ALPHABET) + 1


class Block(nn.Module):
    """Pre-norm transformer block: [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        # a parallel site at `mlp` adds hidden units to it
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix along the context, never from the future, then along the features."""
        x = x + self.project(self._attend(self.attention_norm(x)))
        mixed: Tensor = x + self.mlp(self.mlp_norm(x))
        return mixed

    def _attend(self, x: Tensor) -> Tensor:
        B, T, width = x.shape
        heads = self.query_key_value(x).view(B, T, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, T, width / heads]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(B, T, width)


class CharTransformer(nn.Module):
    """Decoder-only transformer: tokens [B, T] -> logits [B, T, VOCABULARY], T <= CONTEXT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        heads = 2 if width % 2 == 0 else 1
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        """Predict the next token at every position."""
        embedded = self.tokens(x) + self.positions[: x.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(embedded)))
        return logits


def task() -> Task:
    """Characters of Python's sources for a small transformer."""
    return Task(
        name="chars",
        build_model=build_model,
        build_data=build_data,
        loss=cross_entropy,
        metric=accuracy,
        metric_name="accuracy",
        sites=sites,
        optimizer=adamw_cosine,
        default_epochs=EPOCHS,
        default_width=WIDTH,
        default_budget=BUDGET,
        widths=True,
        threads=1,
    )


def sites() -> tuple[Site, ...]:
    """Where the small transformer grows by default: beside its first block.

    Beside the head, the MLPs of its blocks and all of the blocks it gained less; see docs/growth.md.
    """
    return (any_kind("blocks.0", LAYOUT),)


def build_model(seed: int, width: int | None = None) -> nn.Module:
    """Transformer of two blocks; two heads, or one where the width is odd."""
    with seeded(seed):
        return CharTransformer(WIDTH if width is None else width)


def build_data(seed: int) -> Data:
    """Windows of 64 tokens that do not overlap, with the token after each; batches of 32."""
    return SplitData(*_splits(source_folder()), batch_size=BATCH, seed=seed, most=EPOCH)


def source_folder() -> Path:
    """The folder of the standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


@cache
def _splits(folder: Path) -> tuple[Split, Split, Split]:
    files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    if len(files) < 10:
        raise BadData(
            f"task 'chars' reads the standard library's sources, but {folder} holds "
            f"{len(files)} Python files; it needs 10: use a Python that is installed with its "
            "sources"
        )
    validation, test = files[8::10], files[9::10]
    train = [path for path in files if path not in {*validation, *test}]
    return _windows("train", train), _windows("validation", validation), _windows("test", test)


def _windows(split: str, files: list[Path]) -> Split:
    text = "".join(_head(path) for path in files)[: SPLIT_CHARACTERS[split]]
    tokens = torch.tensor([ALPHABET.find(character) + 1 for character in text])
    windows = (len(tokens) - 1) // CONTEXT
    x = tokens[: windows * CONTEXT].view(windows, CONTEXT)
    y = tokens[1 : windows * CONTEXT + 1].view(windows, CONTEXT)
    return Split(split, x, y).checked(classes=VOCABULARY)


def _head(path: Path) -> str:
    """The first characters of a source; bytes that are no UTF-8 become token 0."""
    return path.read_text(encoding="utf-8", errors="replace")[:FILE_CHARACTERS]
