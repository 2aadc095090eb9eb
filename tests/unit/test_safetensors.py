"""The safetensors reader against good and broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.models.safetensors import Tensors


def write(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(*, dtype: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_reads_what_was_written(tmp_path: Path) -> None:
    """Names, shapes and numbers; metadata is no tensor."""
    data = np.arange(4, dtype="<f4")
    header = {"__metadata__": {"format": "pt"}, **entry()}
    tensors = Tensors(write(tmp_path / "t", header, data.tobytes()))
    assert (tensors["a"] == data.reshape(2, 2)).all()
    with pytest.raises(ConfigError, match="no tensor 'b'"):
        tensors["b"]


@pytest.mark.parametrize(
    "bad",
    [
        entry(dtype="X9"),
        entry(shape=(2, 3)),
        entry(shape=(-2, -2)),
        entry(shape="ab"),
        entry(offsets=(8, 24)),
        entry(offsets=(-16, 0)),
        entry(offsets=(0,)),
        {"a": None},
        {"a": {}},
        [],
        b"{",
        b"",
    ],
)
def test_refuses_what_is_broken(tmp_path: Path, bad: Any) -> None:
    """A file that promises more than it holds is refused before it is read."""
    with pytest.raises(ConfigError, match="expected a safetensors file"):
        Tensors(write(tmp_path / "t", bad, bytes(16)))


@pytest.mark.parametrize("content", [b"", b"\1", (2**60).to_bytes(8, "little")])
def test_refuses_what_is_too_short(tmp_path: Path, content: bytes) -> None:
    """Not even a header."""
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="expected a safetensors file"):
        Tensors(path)
