"""Sequences that come and go on the torch decoder, with one pass over the weights for each step.

All tokens of a step are rows of the linear layers. Only attention tells sequences apart: sequences
that decode side by side are attended in one call, a prompt chunk in tiles.

Kernels choose the order of their sums by shape. A sequence's tokens shall depend neither on what
else a step holds nor on where its prompt is cut, so shapes depend on nothing else either:

- Rows of linear layers are filled up to `fewest`, from which on the packed layers of this model
  were seen to give a row the same bits whatever stands beside it: with fewer rows, oneDNN cuts
  long sums among threads.
- A row attends all positions up to the next multiple of `_TILE`, masked beyond its own. Query rows
  are filled up to a multiple of `_QUERIES`: the matrix product in PyTorch's CPU kernel treats a
  remainder of up to three rows differently, and is no slower for eight rows than for seven.

What that promises: on packed layers not one bit of a sequence's logits depends on the mix, in
float32 and bfloat16, as far as it was seen (AMD Zen 5, 1 to 3 threads). Where `fewest` is not found
(unpacked float32), or on a CPU whose kernels choose otherwise, last bits may differ. In float32
that changes a token only where two logits agree to about six digits. In bfloat16, whose highest
logits often tie, it would change tokens: there the promise is worth what the tests show on that
CPU. Tokens of bfloat16 also differ from those of prefill and decode, which pass single rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from harness.engines import Feed
from harness.engines._slots import SlotLengths, untouched

if TYPE_CHECKING:
    from harness.engines._torch_decoder import Decoder
    from harness.engines._torch_quantised import AnyLinear

_TILE = 64
_QUERIES = 8
_MOST_ROWS = 4  # more would cost time
_TRIED = (1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 32, 63)


class Piece(NamedTuple):
    """Rows that are attended in one call: as many of each of `slots`."""

    rows: slice
    slots: slice
    mask: Tensor  # added to scores, broadcast over (slots, KV heads, query rows, positions)


def fewest_rows(decoder: Decoder) -> int | None:
    """Rows from which on each linear layer gives a row bits of its own; None for more than 4.

    Tried on random rows in each shape of layer, in the form in which it is called. Where it adds
    to a residual, that is its own negative result: bits that rounding would hide come out.
    """
    d, layer, fewest = decoder.d, decoder.layers[0], 1
    generator = torch.Generator().manual_seed(0)
    for linear, inputs, added in (
        (layer.qkv, d.hidden, False),
        (layer.out, d.heads * d.head, True),
        (layer.gate_up, d.hidden, False),
        (layer.down, d.intermediate, True),
        (decoder.head, d.hidden, False),
    ):
        x = torch.randn(_TILE, inputs, generator=generator).to(decoder.dtype)
        residual = -linear(x) if added else None
        whole = _rows(linear, x, residual, 0, _TILE)
        for rows in _TRIED:
            starts = range(0, min(4 * rows, _TILE - rows + 1), rows)
            parts = torch.cat([_rows(linear, x, residual, at, at + rows) for at in starts])
            if not torch.equal(parts, whole[: len(parts)]):
                fewest = max(fewest, rows + 1)
    return fewest if fewest <= _MOST_ROWS else None


def _rows(linear: AnyLinear, x: Tensor, residual: Tensor | None, start: int, end: int) -> Tensor:
    """What `linear` gives for some rows of `x` by themselves."""
    part = x[start:end]
    return linear(part) if residual is None else linear.added_to(residual[start:end], part)


def _cache(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros in memory that is taken where they are written; `torch.zeros` writes them all."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.frombuffer(untouched(size), dtype=dtype).view(*shape)


class SlotDecoder:
    """Slots of a static KV cache on the layers of `decoder`."""

    def __init__(self, decoder: Decoder, slots: int, context: int) -> None:
        d = self.d = decoder.d
        self.decoder = decoder
        self.lengths = SlotLengths(slots, context, d.vocabulary)
        self.share = d.heads // d.kv_heads  # queries of a KV head: rows of one matrix product
        room = -(-context // _TILE) * _TILE
        shape = (slots, d.kv_heads, room, d.head)
        self.keys = [_cache(shape, decoder.dtype) for _ in decoder.layers]
        self.values = [_cache(shape, decoder.dtype) for _ in decoder.layers]
        self.cos, self.sin = decoder.angles(context)
        self.mask = self._mask(room)
        self.fewest = fewest_rows(decoder)

    def _mask(self, room: int) -> Tensor:
        """Query rows of a whole tile, and filler, over `room` positions of which it is the last.

        The mask of any rows of any tile is a part of it: some rows, and its right end.
        """
        own = torch.arange(_TILE).repeat_interleave(self.share)[:, None]
        beyond = torch.arange(room - 1, -1, -1) < _TILE - 1 - own
        mask = torch.zeros(len(own) + _QUERIES, room, dtype=self.decoder.dtype)
        mask[: len(own)].masked_fill_(beyond, -torch.inf)
        return mask

    def step(self, feeds: Sequence[Feed]) -> Tensor:
        """Pass `feeds`; logits of the wanted ones in their order, (wanted, vocabulary)."""
        self.lengths.check(feeds)
        if not feeds:
            return torch.empty(0, self.d.vocabulary)
        held = self.lengths.held
        order = sorted(
            range(len(feeds)),
            key=lambda n: (len(feeds[n].tokens) > 1, held[feeds[n].slot] // _TILE, feeds[n].slot),
        )
        x, ends = self._pass([feeds[n] for n in order])
        self.lengths.passed(feeds)
        last = dict(zip(order, ends, strict=True))
        return self._logits(x, [last[n] for n, feed in enumerate(feeds) if feed.wanted])

    def _pass(self, feeds: Sequence[Feed]) -> tuple[Tensor, list[int]]:
        """(hidden states behind the last layer (rows, hidden), the last row of each feed).

        Single tokens come first, by tile and slot.
        """
        tokens: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        ends = []
        for slot, new, _ in feeds:
            held = self.lengths.held[slot]
            tokens += new
            slots += [slot] * len(new)
            positions += range(held, held + len(new))
            ends.append(len(tokens) - 1)
        filler = [0] * max(0, (self.fewest or 1) - len(tokens))
        return self._layers(
            torch.tensor([tokens + filler]),
            torch.tensor(slots),
            torch.tensor(positions + filler),
            list(self._pieces(feeds)),
        ), ends

    def _layers(
        self, tokens: Tensor, slots: Tensor, positions: Tensor, pieces: Sequence[Piece]
    ) -> Tensor:
        """Hidden states behind the last layer; rows beyond those of `slots` are filler."""
        count, heads = len(slots), self.d.heads
        at = positions[:count]
        cos, sin = self.cos[positions], self.sin[positions]
        x = self.decoder.embed(tokens)
        filler = x.new_zeros(tokens.shape[1] - count, heads * self.d.head)
        for layer, keys, values in zip(self.decoder.layers, self.keys, self.values, strict=True):
            qk, v = layer.project(x, cos, sin)
            keys[slots, :, at] = qk[0, :count, heads:]
            values[slots, :, at] = v[0, :count]
            parts = [self._attend(qk[0, p.rows, :heads], keys, values, p) for p in pieces]
            if len(filler):
                parts.append(filler)
            x = layer.finish(x, (torch.cat(parts) if len(parts) > 1 else parts[0])[None])
        return x[0]

    def _pieces(self, feeds: Sequence[Feed]) -> Iterator[Piece]:
        """Calls of attention for `feeds`, which `_pass` got."""
        row, first = 0, 0
        singles = sum(len(feed.tokens) == 1 for feed in feeds)
        held = self.lengths.held
        for n, (slot, tokens, _) in enumerate(feeds):
            if n < singles:
                after = feeds[n + 1].slot if n + 1 < singles else -1
                if after == slot + 1 and held[after] // _TILE == held[slot] // _TILE:
                    continue
                yield self._decoding(slice(first, n + 1), feeds[first].slot)
                first, row = n + 1, n + 1
                continue
            for start, count in _tiles(held[slot], len(tokens)):
                yield self._tile(slice(row, row + count), slot, start)
                row += count

    def _decoding(self, rows: slice, slot: int) -> Piece:
        """Single tokens of neighbouring slots from `slot` on, all in the same tile."""
        slots = slice(slot, slot + rows.stop - rows.start)
        held = torch.tensor(self.lengths.held[slots])
        reach = (int(held[0]) // _TILE + 1) * _TILE
        mask = self.mask[held % _TILE * self.share, -reach:]
        return Piece(rows, slots, mask[:, None, None])

    def _tile(self, rows: slice, slot: int, start: int) -> Piece:
        """Tokens of `slot` from position `start` on, all in the same tile."""
        reach = (start // _TILE + 1) * _TILE
        first, count = start % _TILE * self.share, (rows.stop - rows.start) * self.share
        count += -count % _QUERIES
        return Piece(rows, slice(slot, slot + 1), self.mask[first : first + count, -reach:])

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, piece: Piece) -> Tensor:
        """Attention of `q` (rows, heads, head) as (rows, heads · head)."""
        d, (rows, slots, mask) = self.d, piece
        count = slots.stop - slots.start
        queries = (rows.stop - rows.start) // count * self.share
        # the queries that share a KV head act as its rows: no key is repeated
        q = q.view(count, -1, d.kv_heads, self.share, d.head).transpose(1, 2)
        q = q.reshape(count, d.kv_heads, queries, d.head)
        if filler := -queries % _QUERIES:
            q = F.pad(q, (0, 0, 0, filler))
        reach = mask.shape[-1]
        keys, values = keys[slots, :, :reach], values[slots, :, :reach]
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)[:, :, :queries]
        out = out.view(count, d.kv_heads, -1, self.share, d.head).transpose(1, 2)
        return out.reshape(-1, d.heads * d.head)

    def _logits(self, x: Tensor, rows: list[int]) -> Tensor:
        """Logits of `rows` of the hidden states `x`."""
        if not rows:
            return x.new_empty(0, self.d.vocabulary)
        filler = rows[:1] * ((self.fewest or 1) - len(rows))
        chosen = F.rms_norm(x[rows + filler], (self.d.hidden,), self.decoder.norm, self.d.norm_eps)
        return self.decoder.head(chosen)[: len(rows)]


def _tiles(held: int, new: int) -> Iterator[tuple[int, int]]:
    """(first position, tokens) of the parts that `new` tokens behind `held` have in each tile."""
    start = held
    while start < held + new:
        end = min((start // _TILE + 1) * _TILE, held + new)
        yield start, end - start
        start = end
