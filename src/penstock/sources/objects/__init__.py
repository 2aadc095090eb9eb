"""Documents in a bucket as a source."""

from penstock.sources.objects.bucket import Place
from penstock.sources.objects.lists import ListKeys
from penstock.sources.objects.source import ObjectsSource

__all__ = ["ListKeys", "ObjectsSource", "Place"]
