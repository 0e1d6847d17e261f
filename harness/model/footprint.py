"""What one token costs, from a checkpoint's config alone: bytes read, bytes kept, operations.

Covers Qwen2 and Qwen2.5 (`qwen2`), Qwen3 dense (`qwen3`) and Qwen3 MoE (`qwen3_moe`). A
multiply-add counts as two operations. A look-up of embedding rows, rotary factors, norms and
softmax are left out of the operations: together they are below one percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from harness.errors import unknown_name
from harness.model.architecture import sizes
from harness.records.model import Dimensions


class WeightFormat(Struct, frozen=True, kw_only=True):
    """How a matrix is stored: `bits` per weight, and scale and zero point per group.

    `group` is the number of weights along the input that share one scale: 0 is a whole row (one
    output channel), None is a format without scales. Zero points are packed row by row. A matrix
    whose rows are no multiple of `group` is stored in the format `otherwise`, where one is named.
    """

    name: str
    bits: int
    group: int | None = None
    scale_bits: int = 0
    zero_bits: int = 0
    otherwise: str | None = None

    def taken(self, columns: int) -> WeightFormat:
        """The format that a matrix with `columns` inputs is really stored in."""
        odd = self.otherwise is not None and self.group and columns % self.group
        return FORMATS[self.otherwise] if odd and self.otherwise else self

    def bytes(self, rows: int, columns: int) -> int:
        """Stored bytes of a matrix with `rows` outputs and `columns` inputs."""
        if (taken := self.taken(columns)) is not self:
            return taken.bytes(rows, columns)
        if self.group is None:
            return rows * _whole_bytes(columns * self.bits)
        group = self.group or columns or 1  # there are matrices of no columns: experts of none
        groups = -(-columns // group)
        padded = groups * group if self.group else columns  # the last group is stored whole
        row = _whole_bytes(padded * self.bits) + _whole_bytes(groups * self.zero_bits)
        return rows * (row + groups * self.scale_bits // 8)


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)


def _format(
    name: str,
    bits: int,
    group: int | None = None,
    scale: int = 0,
    zero: int = 0,
    otherwise: str | None = None,
) -> WeightFormat:
    return WeightFormat(
        name=name,
        bits=bits,
        group=group,
        scale_bits=scale,
        zero_bits=zero,
        otherwise=otherwise,
    )


FORMATS: dict[str, WeightFormat] = {
    f.name: f
    for f in (
        _format("float32", 32),
        _format("float16", 16),
        _format("bfloat16", 16),
        _format("int8", 8, 0, 32),  # one float32 scale per output channel
        _format("int8-channel-zero", 8, 0, 32, 8),
        *(  # ONNX Runtime's MatMulNBits in a float32 model, symmetric and with zero points
            _format(f"int{bits}-g{group}{end}", bits, group, 32, zero)
            for bits in (8, 4)
            for group in (16, 32, 64, 128, 256)
            for end, zero in (("", 0), ("-zero", bits))
        ),
        _format("int4-g32-f16", 4, 32, 16),
        _format("int4-g128-f16", 4, 128, 16),
        _format("int4-channel", 4, 0, 32),  # KleidiAI, one scale per output channel
        _format("q8_0", 8, 32, 16),  # llama.cpp block: 32 weights, one half-float scale
        _format("q4_0", 4, 32, 16),
        _format("q5_0", 5, 32, 16),
        # super-blocks of 256: q4_k has two half floats, eight 6-bit scales and minima (16 bytes),
        # q6_k one half float and sixteen int8 scales (18). Sources: ggml's ggml-common.h for the
        # blocks, tensor_type_fallback of llama.cpp's llama-quant.cpp for rows they do not divide.
        _format("q4_k", 4, 256, 128, otherwise="q5_0"),
        _format("q6_k", 6, 256, 144, otherwise="q8_0"),
    )
}


def weight_format(name: str) -> WeightFormat:
    """The format of that name; raises ArmbenchError with the nearest one where there is none."""
    if name not in FORMATS:
        raise unknown_name("weight format", name, FORMATS)
    return FORMATS[name]


class Quantisation(Struct, frozen=True, kw_only=True):
    """Which format each part of the model is stored in.

    `head` and `embedding` follow `body` where they are None; `rest` is norms and biases. `more` is
    the format of the value and down projections of the layers that `favoured_layers` counts; None
    gives them no other.
    """

    body: WeightFormat
    head: WeightFormat | None = None
    embedding: WeightFormat | None = None
    rest: WeightFormat = FORMATS["float32"]
    more: WeightFormat | None = None

    @staticmethod
    def of(spec: str | WeightFormat | Quantisation) -> Quantisation:
        """`spec` itself, the scheme of that name, or one that keeps all matrices in one format."""
        if isinstance(spec, Quantisation):
            return spec
        if isinstance(spec, str) and spec in SCHEMES:
            return SCHEMES[spec]
        body = weight_format(spec) if isinstance(spec, str) else spec
        rest = body if body.group is None else FORMATS["float32"]
        return Quantisation(body=body, rest=rest)


# Files of llama.cpp that are more than one format: norms and biases stay whole, and q4_k_m is a
# mixture. Source: llama_tensor_get_type_impl of llama.cpp's llama-quant.cpp.
SCHEMES: dict[str, Quantisation] = {
    "gguf-f16": Quantisation(body=FORMATS["float16"]),
    "gguf-bf16": Quantisation(body=FORMATS["bfloat16"]),
    "q4_k_m": Quantisation(body=FORMATS["q4_k"], head=FORMATS["q6_k"], more=FORMATS["q6_k"]),
}


def favoured_layers(layers: int) -> int:
    """Of `layers`, those whose value and down projections llama.cpp's mixtures give more bits.

    The first and the last eighth, and every third between (use_more_bits of llama-quant.cpp).
    """
    first, last = layers // 8, 7 * layers // 8
    return sum(i < first or i >= last or (i - first) % 3 == 2 for i in range(layers))


class _Matrix(Struct, frozen=True):
    """`count` matrices of `rows` outputs by `columns` inputs, of which some are `favoured`."""

    rows: int
    columns: int
    count: int = 1
    favoured: int = 0

    @property
    def weights(self) -> int:
        return self.rows * self.columns * self.count


class ModelShape(Struct, frozen=True):
    """What the sizes of a model mean in weights, bytes and operations."""

    sizes: Dimensions

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> ModelShape:
        """The shape in the dict of a `config.json`.

        Raises ArmbenchError where the architecture is not covered or a size is missing or wrong.
        """
        return ModelShape(sizes(config))

    def parameters(self) -> int:
        """Parameters as the checkpoint counts them: a tied embedding once, every expert."""
        body = sum(m.weights for m in self._body(self.sizes.experts)) + self._router_weights
        head = 0 if self.sizes.tied else self.embedding_parameters
        return body + self.rest_parameters + self.embedding_parameters + head

    @property
    def embedding_parameters(self) -> int:
        """Weights of the token embedding (and, in the same shape, of the head)."""
        return self.sizes.vocabulary * self.sizes.hidden

    @property
    def rest_parameters(self) -> int:
        """Norms and biases."""
        kv, attention = self.sizes.kv_heads * self.sizes.head, self.sizes.heads * self.sizes.head
        layer = 2 * self.sizes.hidden
        layer += (
            attention + 2 * kv
        ) * self.sizes.qkv_bias + self.sizes.hidden * self.sizes.output_bias
        layer += 2 * self.sizes.head * self.sizes.qk_norm
        return self.sizes.layers * layer + self.sizes.hidden

    @property
    def linear_parameters(self) -> int:
        """Weights that one token multiplies with, head excluded (MoE: its own experts only)."""
        body = sum(m.weights for m in self._body(self.sizes.experts_per_token))
        return body + self._router_weights

    def expected_experts(self, batch: int = 1) -> float:
        """Distinct experts of one layer that `batch` tokens reach, if routing were even."""
        if not self.sizes.experts:
            return 0.0
        missed = (1 - self.sizes.experts_per_token / self.sizes.experts) ** batch
        return self.sizes.experts * (1 - missed)

    def weight_bytes(self, spec: str | WeightFormat | Quantisation) -> int:
        """Bytes of all stored weights: the memory a loaded model takes for them.

        A tied embedding counts once unless the scheme keeps it in a format of its own.
        """
        return sum(self.bytes_by_format(spec).values())

    def bytes_by_format(self, spec: str | WeightFormat | Quantisation) -> dict[str, int]:
        """The bytes of `weight_bytes` by the name of the format that they are stored in."""
        scheme = Quantisation.of(spec)
        head, embedding = scheme.head or scheme.body, scheme.embedding or scheme.body
        once = self.sizes.tied and (scheme.embedding is None or embedding == head)
        found = self._by_format(scheme, self._body(self.sizes.experts))
        for kept in (head,) if once else (head, embedding):
            name = kept.taken(self.sizes.hidden).name
            size = kept.bytes(self.sizes.vocabulary, self.sizes.hidden)
            found[name] = found.get(name, 0) + size
        return found

    def weight_bytes_per_step(
        self, spec: str | WeightFormat | Quantisation, batch: int = 1
    ) -> float:
        """Bytes of weights that one decode step of `batch` sequences reads.

        The head counts once, tied or not; of the experts those that even routing reaches. The
        embedding rows looked up are left out.
        """
        scheme = Quantisation.of(spec)
        head = (scheme.head or scheme.body).bytes(self.sizes.vocabulary, self.sizes.hidden)
        dense = self._bytes(scheme, self._attention() + self._dense_mlp())
        if not self.sizes.moe_layers:
            return float(dense + head)
        experts = self._mlp(self.sizes.moe_intermediate, self.sizes.moe_layers)
        return dense + head + self.expected_experts(batch) * sum(_stored(scheme, experts).values())

    def kv_bytes_per_token(self, bytes_per_element: float = 2) -> float:
        """Bytes that one token of context keeps in the KV cache of all layers."""
        return 2 * self.sizes.layers * self.sizes.kv_heads * self.sizes.head * bytes_per_element

    def prefill_flops(self, n: int, *, start: int = 0, head_positions: int | None = None) -> float:
        """Operations to take in `n` tokens after `start` cached ones.

        The head runs for `head_positions` of them: by default the last alone.
        """
        head = min(n, 1) if head_positions is None else head_positions
        seen = n * start + n * (n + 1) // 2  # keys that the n queries meet, causally
        return (
            2 * self.linear_parameters * n
            + 2 * self.embedding_parameters * head
            + self._attention_flops(seen)
        )

    def decode_flops(self, context: float, *, batch: int = 1) -> float:
        """Operations of one decode step of `batch` sequences that each attend to `context` keys."""
        token = 2 * (self.linear_parameters + self.embedding_parameters)
        return batch * (token + self._attention_flops(context))

    def _attention_flops(self, keys: float) -> float:
        return (
            4 * self.sizes.layers * self.sizes.heads * self.sizes.head * keys
        )  # scores, then values

    def _attention(self) -> list[_Matrix]:
        query, kv = self.sizes.heads * self.sizes.head, self.sizes.kv_heads * self.sizes.head
        return [
            _Matrix(query, self.sizes.hidden, self.sizes.layers),
            _Matrix(
                kv, self.sizes.hidden, 2 * self.sizes.layers, favoured_layers(self.sizes.layers)
            ),
            _Matrix(self.sizes.hidden, query, self.sizes.layers),
        ]

    def _dense_mlp(self) -> list[_Matrix]:
        return self._mlp(self.sizes.intermediate, self.sizes.layers - self.sizes.moe_layers)

    def _mlp(self, width: int, count: int) -> list[_Matrix]:
        return [
            _Matrix(width, self.sizes.hidden, 2 * count),
            _Matrix(self.sizes.hidden, width, count, favoured_layers(count)),
        ]

    def _body(self, experts: int) -> list[_Matrix]:
        moe = self._mlp(self.sizes.moe_intermediate, self.sizes.moe_layers * experts)
        return [*self._attention(), *self._dense_mlp(), *moe]

    @property
    def _router_weights(self) -> int:
        return self.sizes.experts * self.sizes.hidden * self.sizes.moe_layers

    def _bytes(self, scheme: Quantisation, matrices: list[_Matrix]) -> int:
        return sum(self._by_format(scheme, matrices).values())

    def _by_format(self, scheme: Quantisation, matrices: list[_Matrix]) -> dict[str, int]:
        """Bytes of `matrices`, norms and biases by the name of their format."""
        found = _stored(scheme, matrices)
        # Routers decide which experts run, so the schemes in use leave them unquantised.
        rest = scheme.rest.bytes(1, self.rest_parameters + self._router_weights)
        found[scheme.rest.name] = found.get(scheme.rest.name, 0) + rest
        return found


def _stored(scheme: Quantisation, matrices: list[_Matrix]) -> dict[str, int]:
    """Bytes of `matrices` by the name of the format that they are stored in."""
    found: dict[str, int] = {}
    for m in matrices:
        favoured = m.favoured if scheme.more else 0
        for kept, count in ((scheme.body, m.count - favoured), (scheme.more, favoured)):
            if kept and count:
                name = kept.taken(m.columns).name
                found[name] = found.get(name, 0) + kept.bytes(m.rows, m.columns) * count
    return found


class Footprint(Struct, frozen=True, kw_only=True):
    """A shape in one format: what a decode step and a prefill cost, and what bounds them."""

    shape: ModelShape
    weights: Quantisation
    kv_element_bytes: float = 2

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that one token of context keeps in the KV cache."""
        return self.shape.kv_bytes_per_token(self.kv_element_bytes)

    def weight_bytes_per_step(self, batch: int = 1) -> float:
        """Bytes of weights that one decode step reads."""
        return self.shape.weight_bytes_per_step(self.weights, batch)

    def step_bytes(self, context: float, batch: int = 1) -> float:
        """Bytes that one decode step reads: weights, and the KV cache of every sequence."""
        return self.weight_bytes_per_step(batch) + batch * context * self.kv_bytes_per_token

    def decode_bound_tok_per_s(
        self, read_bytes_per_s: float, context: float, batch: int = 1
    ) -> float:
        """Tokens per second of all sequences, if reading were all there is to a step."""
        return batch * read_bytes_per_s / self.step_bytes(context, batch)

    def prefill_bound_tok_per_s(self, ops_per_s: float, n: int) -> float:
        """Input tokens per second, if arithmetic were all there is to a prefill of `n`."""
        return n * ops_per_s / self.shape.prefill_flops(n)

    def decode_intensity(self, context: float, batch: int = 1) -> float:
        """Operations per byte read of one decode step."""
        return self.shape.decode_flops(context, batch=batch) / self.step_bytes(context, batch)

    def prefill_intensity(self, n: int, batch: int = 1) -> float:
        """Operations per byte of weights read once for a prefill of `n` tokens each."""
        return batch * self.shape.prefill_flops(n) / self.weight_bytes_per_step(batch * n)
