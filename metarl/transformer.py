"""A small causal transformer over the transitions of a trial: all at once in training, one token at a time in acting.

Pre-norm blocks; sinusoids tell a token's place, so that a trial may be longer than those of training. A cache keeps keys and values, so that a
decision costs one token and not the whole trial.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention


class Block(nn.Module):
    """Attention and a feed-forward layer, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def ask(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (N, heads, T, width / heads) of tokens (N, T, width)."""
        query, key, value = self.project(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def finish(self, x: Tensor, read: Tensor) -> Tensor:
        """(N, T, width) from tokens and what they read, (N, heads, T, width / heads)."""
        x = x + self.out(read.transpose(1, 2).flatten(2))
        after: Tensor = x + self.narrow(self.wide(self.norm_between(x)).relu())
        return after


class Transformer(nn.Module):
    """Transitions -> what is known before and after each of them."""

    frequency: Tensor

    def __init__(self, input_size: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.input_size, self.width, self.heads = input_size, width, heads
        self.embed, self.norm = nn.Linear(input_size, width), nn.LayerNorm(width)
        self.blocks: Sequence[Block] = nn.ModuleList(Block(width, heads) for _ in range(blocks))  # type: ignore[assignment]  # it is one
        self.register_buffer("frequency", torch.logspace(0, -3, width // 2), persistent=False)

    def tokens(self, transition: Tensor, place: Tensor) -> Tensor:
        """(..., width) from transitions (..., I) and the places (...) of their tokens in the trial."""
        angle = place.unsqueeze(-1) * self.frequency
        token: Tensor = self.embed(transition) + torch.cat([angle.sin(), angle.cos()], -1)
        return token

    def forward(self, transition: Tensor) -> Tensor:
        """(N, T + 1, width) before and after each of the transitions (N, T, I): the first token is an empty one."""
        transition = pad(transition, (0, 0, 1, 0))
        x = self.tokens(transition, torch.arange(transition.shape[1], device=transition.device))
        for block in self.blocks:
            query, key, value = block.ask(x)
            x = block.finish(x, scaled_dot_product_attention(query, key, value, is_causal=True))
        known: Tensor = self.norm(x)
        return known


class Cache:
    """What N trials have said so far: keys and values of their tokens, (blocks, N, heads, S, d), how many there are, (N,), and `known`, (N, width)."""

    @torch.no_grad()
    def __init__(self, memory: Transformer, trials: int, room: int) -> None:
        self.memory, device = memory, memory.frequency.device
        shape = (len(memory.blocks), trials, memory.heads, room, memory.width // memory.heads)
        self.keys, self.values = (torch.zeros(shape, device=device) for _ in range(2))
        self.tokens, self.longest = torch.zeros(trials, dtype=torch.long, device=device), 0
        self.rows = torch.arange(trials, device=device)
        self.known = torch.zeros(trials, memory.width, device=device)
        self.add(torch.zeros(trials, memory.input_size, device=device), torch.ones(trials, dtype=torch.bool, device=device))

    @torch.no_grad()
    def add(self, transition: Tensor, valid: Tensor) -> None:
        """Take in transitions (N, I) where valid (N,); what others are given takes a place that their next token will overwrite."""
        if self.longest == self.keys.shape[3]:  # a trial longer than was expected
            self.keys, self.values = (pad(x, (0, 0, 0, self.longest)) for x in (self.keys, self.values))
        self.longest += 1
        seen = (torch.arange(self.longest, device=valid.device) <= self.tokens.unsqueeze(-1))[:, None, None]
        x = self.memory.tokens(transition, self.tokens).unsqueeze(1)
        for block, keys, values in zip(self.memory.blocks, self.keys, self.values, strict=True):
            query, key, value = block.ask(x)
            keys[self.rows, :, self.tokens], values[self.rows, :, self.tokens] = key.squeeze(2), value.squeeze(2)
            x = block.finish(x, scaled_dot_product_attention(query, keys[:, :, : self.longest], values[:, :, : self.longest], seen))
        self.known = torch.where(valid.unsqueeze(-1), self.memory.norm(x.squeeze(1)), self.known)
        self.tokens = self.tokens + valid
