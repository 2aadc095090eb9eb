"""Files that say who may see others are read as they are written."""

from __future__ import annotations

from penstock.principals import sidecar_place
from penstock.sources.extract import Extracted, Extractor, decode


class SidecarExtractor:
    """Gives the text of such files unchanged, and that of all others as ``inner`` reads it."""

    def __init__(self, inner: Extractor) -> None:
        self._inner = inner

    def extract_plain(self, name: str, data: bytes) -> Extracted | None:
        """See `Extractor.extract_plain`."""
        if sidecar_place(name) is not None:
            return Extracted(decode(data), None, "application/yaml", {})
        return self._inner.extract_plain(name, data)

    async def extract(self, name: str, data: bytes) -> Extracted:
        """See `Extractor.extract`."""
        return self.extract_plain(name, data) or await self._inner.extract(name, data)

    async def close(self) -> None:
        """See `Extractor.close`."""
        await self._inner.close()
