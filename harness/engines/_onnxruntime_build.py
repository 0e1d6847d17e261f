"""How the graphs of the ONNX Runtime engines are made. Heavy; runs in the converting child only.

All begin as an exporter's float32 graph, whose products are then quantised. The builder can write
4 bits itself, by the same function of ONNX Runtime, but needs 1.7 times the memory for it.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engines._onnxruntime_keys import PRODUCTS
from harness.engines._onnxruntime_rows import write_probe
from harness.engines.onnxruntime import reduced_range, uses_dynamic
from harness.errors import ArmbenchError
from harness.model.for_transformers import folder_for_transformers

if TYPE_CHECKING:
    from harness.engines import EngineSpec

HEAD = "/lm_head/MatMul"  # the builder's name of the head's product
GRAPH = "model.onnx"


def make(spec: EngineSpec, folder: Path) -> None:
    """Write the graph of `spec.checkpoint`, and the files beside it, to `folder`; no network.

    Raises ArmbenchError where the exporter fails to write a graph.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    options, draft = spec.options, folder / "cache" / "draft"
    if spec.dtype == "float32":
        _export(spec, folder)
    elif uses_dynamic(spec.dtype, options):
        _export(spec, draft)
        _dynamic(draft, folder, options)
    else:
        _export(spec, draft)
        _blocks(draft, folder, {"int8": 8, "int4": 4}[spec.dtype], options)
    if not (folder / GRAPH).is_file():
        raise ArmbenchError(f"the exporter {options['exporter']} wrote no {GRAPH}")


def _export(spec: EngineSpec, folder: Path) -> None:
    """The float32 graph."""
    with folder_for_transformers(Path(spec.checkpoint)) as source:
        if spec.options["exporter"] == "optimum":
            _optimum(source, folder)
        else:
            _builder(source, folder, spec.dtype)
    gc.collect()  # the exporters leave the model in cycles, and the next step loads it again


def _builder(source: Path, folder: Path, dtype: str) -> None:
    from onnxruntime_genai.models.builder import create_model

    # a tied head that is to be quantised cannot be the embedding as well, transposed
    apart = {} if dtype == "float32" else {"shared_embeddings": False}
    create_model(
        "local",
        str(source),
        str(folder),
        "fp32",
        "cpu",
        str(folder / "cache"),
        prune_lm_head=True,
        hf_remote=False,  # its default runs a checkpoint's own Python
        **apart,
    )


def _blocks(source: Path, folder: Path, bits: int, options: Mapping[str, Any]) -> None:
    """Every product of a weight in the graph of `source` as MatMulNBits, to `folder`."""
    import onnx
    import onnx_ir

    model = onnx.load(str(source / GRAPH))
    own = options["head"] != "body"
    model = _quantise(model, bits, options, [HEAD] if own else [])
    if options["head"] == "int8":
        model = _quantise(model, 8, options, [])
    write_probe(folder, [bits, 8] if options["head"] == "int8" else [bits], options)
    (folder / PRODUCTS).write_text(json.dumps(_products(model), indent=1))
    # aligned, so that ONNX Runtime maps what it need not repack instead of copying it
    onnx_ir.save(onnx_ir.from_proto(model), folder / GRAPH, external_data=f"{GRAPH}.data")
    _copy_rest(source, folder)


def _quantise(model: Any, bits: int, options: Mapping[str, Any], excluded: list[str]) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    work = MatMulNBitsQuantizer(
        model,
        bits=bits,
        block_size=options["block_size"],
        is_symmetric=options["symmetric"],
        accuracy_level=options["accuracy_level"],
        nodes_to_exclude=excluded,
    )
    work.process()
    return work.model.model


def _products(model: Any) -> dict[str, int]:
    """How many MatMulNBits of each kind `model` has: a profile does not tell their kind."""
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    kinds = [{a.name: a.i for a in node.attribute} for node in nodes]
    return Counter(
        f"{k['bits']} bits, blocks of {k['block_size']}, "
        f"accuracy level {k.get('accuracy_level', 0)}"
        for k in kinds
    )


def _dynamic(source: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """8-bit weights, one scale a channel; activations quantised at each product, one scale each."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source / GRAPH),
        str(folder / GRAPH),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=reduced_range(),
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[HEAD] if options["head"] == "float32" else [],
        use_external_data_format=True,
    )
    _copy_rest(source, folder)


def _copy_rest(source: Path, folder: Path) -> None:
    """The builder's other files: onnxruntime-genai's config, the tokenizer."""
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith(GRAPH):
            shutil.copy(file, folder)


def _optimum(source: Path, folder: Path) -> None:
    from optimum.exporters.onnx import main_export

    main_export(
        str(source),
        output=folder,
        task="text-generation-with-past",
        local_files_only=True,
        do_validation=False,
    )
