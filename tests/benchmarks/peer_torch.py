"""The suite's encoder and some of its mixers in plain PyTorch, as a good user of it would write them.

`tests/benchmarks/peers.py` runs this file as a process of its own and compares its speed with the suite's. Parameters
have the suite's names, so that both sides start from the same weights and have to give the same logits.

Shapes: B batch, L length, D width, H heads, K head width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.peer import Case, serve, timed


class Projections(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def project(self, x: Tensor) -> list[Tensor]:
        """x [B, L, D] → queries, keys and values, [B, H, L, K]."""
        return [f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)]

    def join(self, y: Tensor) -> Tensor:
        joined: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return joined


class Attention(Projections):
    """PyTorch's own fused attention."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.join(F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None]))


class Local(Projections):
    """Attention within blocks: the blocks are a batch of short documents."""

    def __init__(self, dim: int, heads: int, block: int = 50):
        super().__init__(dim, heads)
        self.block = block

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, dim = x.shape
        rest = -length % self.block
        x = F.pad(x, (0, 0, 0, rest)).reshape(-1, self.block, dim)
        mask = F.pad(mask, (0, rest)).reshape(-1, self.block)
        q, k, v = self.project(x)
        y = self.join(F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None]))
        return y.reshape(batch, -1, dim)[:, :length]


class FNet(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=(-2, -1)).real


def kernel_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q, k: features [B, H, L, F]; v [B, H, L, K]."""
    k = k * mask[:, None, :, None]
    above = q @ (k.transpose(-1, -2) @ v)
    below = q @ k.sum(2)[..., None]
    return above / below.clamp_min(1e-6)


class LinearTransformer(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.projections = Projections(dim, heads)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.projections.project(x)
        return self.projections.join(kernel_attend(F.elu(q) + 1, F.elu(k) + 1, v, mask))


class Performer(nn.Module):
    """FAVOR+ with positive features; the directions are a fixed draw."""

    directions: Tensor

    def __init__(self, dim: int, heads: int, features: int = 256):
        super().__init__()
        self.projections = Projections(dim, heads)
        self.register_buffer("directions", torch.empty(features, dim // heads))

    def exponents(self, x: Tensor) -> Tensor:
        x = x * x.shape[-1] ** -0.25
        return x @ self.directions.T - (x * x).sum(-1, keepdim=True) / 2

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.projections.project(x)
        a = self.exponents(k).masked_fill(~mask[:, None, :, None], -math.inf)
        top = a.amax(2, keepdim=True).detach()
        b = self.exponents(q) + top
        b = b - b.amax(-1, keepdim=True).detach()
        return self.projections.join(kernel_attend(b.exp(), (a - top).exp(), v, mask))


def scan(decay: Tensor, x: Tensor, chunk: int = 64) -> Tensor:
    """h_t = decay ⊙ h_{t−1} + x_t along the second axis: in chunks, by doubling, and then over the chunks likewise.

    Args:
        decay: complex [N].
        x: complex [B, L, N].
        chunk: a power of two.
    """
    length = x.shape[1]
    count = -(-length // chunk)
    h = F.pad(x, (0, 0, 0, count * chunk - length)).unflatten(1, (count, chunk))
    power, step = decay, 1
    while step < chunk:
        h = torch.cat([h[:, :, :step], h[:, :, step:] + power * h[:, :, :-step]], 2)
        power, step = power * power, 2 * step
    if count > 1:
        ends = scan(power, h[:, :, -1], chunk)
        before = F.pad(ends[:, :-1], (0, 0, 1, 0))
        powers = decay ** torch.arange(1, chunk + 1, dtype=decay.real.dtype)[:, None]
        h = h + powers * before[:, :, None]
    return h.flatten(1, 2)[:, :length]


class LRU(nn.Module):
    """Both directions of a diagonal linear recurrence."""

    def __init__(self, dim: int, heads: int, state: int = 64):
        super().__init__()
        self.log_decay, self.log_phase, self.log_gain = (nn.Parameter(torch.empty(state)) for _ in range(3))
        self.into = nn.Parameter(torch.empty(state, dim, 2))
        self.out = nn.Parameter(torch.empty(2, dim, state, 2))
        self.skip = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        u = x * mask[..., None]
        decay = torch.exp(torch.complex(-self.log_decay.exp(), self.log_phase.exp()))
        driven = torch.view_as_complex(torch.stack([u @ self.into[..., i].T * self.log_gain.exp() for i in (0, 1)], -1))
        y = u * self.skip
        for out, flip in zip(self.out, (False, True), strict=True):
            h = scan(decay, driven.flip(1)).flip(1) if flip else scan(decay, driven)
            y = y + h.real @ out[..., 0].T - h.imag @ out[..., 1].T
        return y


MIXERS: dict[str, Callable[[int, int], nn.Module]] = {
    "transformer": Attention,
    "fnet": lambda dim, heads: FNet(),
    "linear_transformer": LinearTransformer,
    "performer": Performer,
    "local": Local,
    "lru": LRU,
}
"""By the suite's name: (width, heads) → a mixer, of x [B, L, D] and mask bool [B, L]."""


class Block(nn.Module):
    def __init__(self, mixer: nn.Module, dim: int, mlp: int):
        super().__init__()
        self.norm_mixer, self.norm_mlp = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mixer = mixer
        self.mlp = nn.ModuleDict({"into": nn.Linear(dim, mlp), "out": nn.Linear(mlp, dim)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.mixer(self.norm_mixer(x), mask)
        hidden = F.gelu(self.mlp["into"](self.norm_mlp(x)), approximate="tanh")
        return x + self.mlp["out"](hidden)


class Encoder(nn.Module):
    """Token ids [B, L] and their mask → logits [B, classes]; a CLS token is put before them and read at the end."""

    positions: Tensor

    def __init__(self, case: Case):
        super().__init__()
        dim = case.dim
        self.embedding = nn.Embedding(case.vocab, dim)
        self.cls = nn.Parameter(torch.empty(dim))
        self.register_buffer("positions", torch.from_numpy(sinusoids(case.length + 1, dim)), persistent=False)
        mixers = [MIXERS[case.model](dim, case.heads) for _ in range(case.layers)]
        self.blocks = nn.ModuleList([Block(mixer, dim, case.mlp) for mixer in mixers])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.ModuleList([nn.Linear(dim, case.mlp)])
        self.classifier = nn.Linear(case.mlp, case.classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(tokens), 1, -1), self.embedding(tokens)], 1) + self.positions
        mask = F.pad(mask, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.classifier(F.relu(self.head[0](self.norm(x)[:, 0])))
        return logits


def sinusoids(length: int, dim: int) -> np.ndarray:
    angle = np.arange(length)[:, None] / 10_000.0 ** (np.arange(0, dim, 2) / dim)
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, dim).astype(np.float32)


def to_torch(name: str, array: np.ndarray) -> tuple[str, Tensor]:
    """A parameter of the suite under PyTorch's name, in its layout."""
    if name.endswith(".kernel"):
        array = array.T
    return re.sub(r"(?<=\.)(kernel|scale|embedding)$", "weight", name), torch.tensor(array)


class Peer:
    """One model that trains on one batch."""

    def __init__(self, case: Case, file: Path, mode: str):
        with np.load(file) as stored:
            arrays = dict(stored)
        tokens, mask, labels = (torch.from_numpy(arrays.pop(f"batch.{x}")) for x in ("tokens", "mask", "labels"))
        self.tokens, self.mask, self.labels = tokens.long(), mask, labels.long()
        self.model = Encoder(case)
        self.model.load_state_dict(dict(to_torch(*entry) for entry in arrays.items()))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=case.rate, betas=(0.9, 0.98), eps=1e-9, weight_decay=case.decay, fused=True
        )
        self.run: Any = torch.compile(self.model) if mode == "compile" else self.model

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.run(self.tokens, self.mask), self.labels)
        loss.backward()
        self.optimizer.step()
        loss.item()

    @torch.inference_mode()
    def logits(self) -> np.ndarray:
        logits: np.ndarray = self.run(self.tokens, self.mask).numpy()
        return logits

    def time(self, phase: str, seconds: float) -> list[float]:
        return timed(self.step if phase == "train" else self.logits, seconds)


if __name__ == "__main__":
    serve(Peer, f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
