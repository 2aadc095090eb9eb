"""Signed deliveries over HTTP as a source."""

from penstock.sources.webhook.payloads import DocumentPayloads, RowPayloads
from penstock.sources.webhook.source import WebhookSource

__all__ = ["DocumentPayloads", "RowPayloads", "WebhookSource"]
