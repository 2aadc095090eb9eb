"""Documents that applications push through the API."""

from penstock.sources.push.source import Pushed, PushSource, ReusedIdError

__all__ = ["PushSource", "Pushed", "ReusedIdError"]
