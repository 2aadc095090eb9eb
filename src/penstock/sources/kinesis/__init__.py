"""A Kinesis stream as a source."""

from penstock.sources.kinesis.payloads import RecordRows
from penstock.sources.kinesis.source import KinesisSource

__all__ = ["KinesisSource", "RecordRows"]
