"""Reading a safetensors file: a header of JSON, then the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.errors import ConfigError

_TYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
}
_MAX_HEADER = 16 * 1024 * 1024


class _Place(NamedTuple):
    type: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class Tensors:
    """The tensors of one file by name. Each access reads that tensor anew and keeps nothing, so
    that converting a model needs the memory of one matrix and not of the file."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises `ConfigError` for a file that is no safetensors file or that
        promises more than it holds."""
        self._path = path
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER, size - 8):
                raise self._broken(f"a header of {length} bytes in a file of {size}")
            header = file.read(length)
        try:
            entries = orjson.loads(header)
        except orjson.JSONDecodeError as error:
            raise self._broken("a header that is not JSON") from error
        if not isinstance(entries, dict):
            raise self._broken("a header that is not an object")
        start = 8 + length
        self._places = {
            name: self._place(name, entry, start, size)
            for name, entry in entries.items()
            if name != "__metadata__"
        }

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> NDArray[Any]:
        place = self._places.get(name)
        if place is None:
            raise self._broken(f"no tensor {name!r}")
        count = prod(place.shape)
        flat = np.fromfile(self._path, place.type, count, offset=place.offset)
        if len(flat) != count:
            raise self._broken(f"an end before that of {name!r}")
        return flat.reshape(place.shape)

    def _place(self, name: str, entry: Any, start: int, size: int) -> _Place:
        try:
            kind = _TYPES[entry["dtype"]]
            shape = tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(f"an unusable entry for {name!r}") from error
        inside = 0 <= begin <= end <= size - start and min(shape, default=0) >= 0
        if not inside or end - begin != prod(shape) * kind.itemsize:
            raise self._broken(f"wrong bounds for {name!r}")
        return _Place(kind, shape, start + begin)

    def _broken(self, came: str) -> ConfigError:
        return ConfigError(
            f"expected a safetensors file at {str(self._path)!r}, got {came}: "
            "install the package again"
        )
