"""Regenerate the Python code of synera.proto: `python -m runtime.wire.generate`.

The output is committed, so that running needs no compiler; commit that of the oldest grpcio-tools that pyproject.toml
allows, as generated code refuses to run with older libraries. What does not live here: the contract itself.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
"""The include path: the proto's place below it decides the imports in the generated code."""
PROTO = "runtime/wire/synera.proto"


def generate(out: Path) -> None:
    """Write synera_pb2.py, synera_pb2.pyi and synera_pb2_grpc.py below `out`/runtime/wire.

    Raises:
        RuntimeError: the compiler refused the proto; it printed why.
    """
    well_known = files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"-I{well_known}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        PROTO,
    ]
    if protoc.main(arguments):
        raise RuntimeError(f"protoc refused {PROTO}")


if __name__ == "__main__":
    generate(ROOT)
