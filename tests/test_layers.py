"""An import only goes down: the table of harness/README.md, held."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import harness

PACKAGE = Path(harness.__file__).parent
# The longest matching prefix counts.
LAYERS = {
    "": 0,
    "errors": 0,
    "units": 0,
    "places": 0,
    "packages": 0,
    "parent": 0,
    "records": 0,
    "machine": 1,
    "model": 1,
    "bounds": 1,
    "binding": 1,
    "metrics": 1,
    "stats": 1,
    "prices": 1,
    "cost": 1,
    "breakeven": 1,
    "fleet": 1,
    "store": 1,
    "validity": 1,
    "cache": 1,
    "fit": 1,
    "load.prompts": 1,
    "load.events": 1,
    "load.framing": 1,
    "load.tokens": 1,
    "load.answers": 1,
    "load.turns": 1,
    "load.agenda": 1,
    "load.arrivals": 1,
    "load.bodies": 1,
    "load.capacity": 1,
    "load.given": 1,
    "load.lengths": 1,
    "load.lines": 1,
    "load.schedule": 1,
    "load.seeds": 1,
    "load.slo": 1,
    "load.stored": 1,
    "load.summary": 1,
    "load.traces": 1,
    "load.words": 1,
    "load.recipes": 1,
    "load.exposition": 1,
    "load.processes": 1,
    "load.keys": 1,
    "serving.fairness": 1,
    "serving.scheduler": 1,
    "serving.outstanding": 1,
    "serving.refusal": 1,
    "serving.tokens": 1,
    "serving.chat": 1,
    "serving.bodies": 1,
    "serving.events": 1,
    "changepoint": 1,
    "steps": 1,
    "comparing": 1,
    "gate": 2,
    "history": 2,
    "baseline": 2,
    "agreement": 2,
    "ceilings": 2,
    "engines": 2,
    "wire": 2,
    "serving.loop": 2,
    "serving.journal": 2,
    "serving.meters": 2,
    "serving.options": 2,
    "serving": 3,
    "plan": 3,
    "estimate": 3,
    "calibration": 3,
    "evidence": 3,
    "observe": 3,
    "served_trial": 4,
    "worker": 3,
    "engine_process": 3,
    "crew": 3,
    "conversion": 3,
    "abilities": 3,
    "load": 3,
    "tune": 4,
    "tune.intervals": 1,
    "tune.search": 1,
    "tune.objective": 1,
    "tune.knowing": 1,
    "tune.fitting": 1,
    "tune.outcome": 1,
    "tune.limits": 2,
    "tune.space": 3,
    "tune.writing": 3,
    "tune.probing": 3,
    "tune.forecast": 3,
    "ab": 4,
    "runner": 4,
    "engine_run": 4,
    "endpoint_run": 4,
    "endpoint_spec": 4,
    "managed_run": 4,
    "timed_run": 4,
    "begin": 4,
    "reports": 5,
    "interchange": 5,
    "cli": 6,
    "pytest_plugin": 6,
    "__main__": 6,
}
HEAVY = {"torch", "transformers", "onnxruntime", "onnx", "optimum", "onnxruntime_genai", "openvino"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(name: str) -> int:
    while name not in LAYERS:
        name = name.rpartition(".")[0]
    return LAYERS[name]


def imports(path: Path) -> Iterator[str]:
    """Absolute names that the file imports anywhere, those for type checking left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_file_has_a_layer_of_its_own_name() -> None:
    unplaced = [
        str(p)
        for p in modules()
        if name_of(p).split(".")[0] not in {k.split(".")[0] for k in LAYERS}
    ]
    assert unplaced == []


def test_an_import_only_goes_down() -> None:
    wrong = [
        f"{name_of(path)} (layer {layer(name_of(path))}) imports {name}"
        for path in modules()
        for name in imports(path)
        if name.startswith("harness.")
        and layer(name.removeprefix("harness.")) > layer(name_of(path))
    ]
    assert wrong == []


def test_the_driver_never_imports_an_engine_runtime() -> None:
    wrong = [
        f"{name_of(path)} imports {name} at its top"
        for path in modules()
        if not path.stem.startswith("_")
        for node in ast.parse(path.read_text()).body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []
