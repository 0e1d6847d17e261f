"""Whether a row of a product gets the same bits whatever number of rows is multiplied together.

MatMulNBits has kernels for one row and for several. Where they add a row's blocks in another
order, its sums differ in the last bit; quantised again for the next product, some of them fall to
the other side of a step, and after some layers the logits differ by as much as quantisation moves
them. Seen with ONNX Runtime 1.32 on AVX-512 VNNI: int4 from blocks of 64 on, int8 from blocks of
128 on, where an odd last row has the kernel for one row; with an even number all rows agree.

So the conversion writes a product of its own formats beside the graph, and before sequences share
steps it is tried here in how large a number rows agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import ArmbenchError

if TYPE_CHECKING:
    import onnxruntime as ort

PROBE = "rows.onnx"
_BLOCKS, _OUTPUTS, _ROWS = 8, 64, 32
_NUMBERS = (1, 2, 4, 8, 16)


def write_probe(folder: Path, formats: Sequence[int], options: Mapping[str, Any]) -> None:
    """A product for each number of bits in `formats`, on random weights, to `folder`."""
    from onnx import TensorProto, helper, numpy_helper, save

    block = options["block_size"]
    depth = _BLOCKS * block
    random = np.random.default_rng(0)
    nodes, given, outputs = [], [], []
    for bits in sorted(set(formats)):
        shape = (_OUTPUTS, _BLOCKS, block * bits // 8)
        weights = random.integers(0, 256, shape, dtype=np.uint8)
        scales = random.random((_OUTPUTS, _BLOCKS), dtype=np.float32)
        names = ["rows", f"weights{bits}", f"scales{bits}"]
        given += [
            numpy_helper.from_array(weights, names[1]),
            numpy_helper.from_array(scales, names[2]),
        ]
        if not options["symmetric"]:
            names.append(f"zeros{bits}")
            zeros = random.integers(0, 256, (_OUTPUTS, _BLOCKS * bits // 8), dtype=np.uint8)
            given.append(numpy_helper.from_array(zeros, names[3]))
        outputs.append(f"sums{bits}")
        node = helper.make_node(
            "MatMulNBits",
            names,
            outputs[-1:],
            domain="com.microsoft",
            K=depth,
            N=_OUTPUTS,
            bits=bits,
            block_size=block,
            accuracy_level=options["accuracy_level"],
        )
        nodes.append(node)
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", depth])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["n", _OUTPUTS]) for o in outputs],
        given,
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=versions, ir_version=9), str(folder / PROBE))


def number_of_rows(folder: Path, chosen: ort.SessionOptions) -> int:
    """The number of which a step's rows must be a multiple, for each to get the bits it gets alone.

    1 for a graph without a probe, whose products are not MatMulNBits. Raises ArmbenchError where
    no number does.
    """
    import onnxruntime as ort

    file = folder / PROBE
    if not file.is_file():
        return 1
    session = ort.InferenceSession(str(file), chosen, providers=["CPUExecutionProvider"])
    depth = session.get_inputs()[0].shape[1]
    rows = np.random.default_rng(1).standard_normal((_ROWS, depth), dtype=np.float32)
    whole = session.run(None, {"rows": rows})
    for number in _NUMBERS:
        if all(_agree(session, rows[:n], whole) for n in range(number, _ROWS, number)):
            return number
    raise ArmbenchError(
        "this graph cannot serve here: the bits of a row depend on how many rows are multiplied "
        "together, so that a sequence's tokens would depend on what else a step holds",
        hint="take block_size 32, or accuracy_level 1",
    )


def _agree(session: ort.InferenceSession, rows: Any, whole: Sequence[Any]) -> bool:
    found = session.run(None, {"rows": rows})
    return all(
        np.array_equal(ours, all_rows[: len(rows)])
        for ours, all_rows in zip(found, whole, strict=True)
    )
