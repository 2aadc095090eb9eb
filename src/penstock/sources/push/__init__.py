"""Documents that applications push through the API."""

from penstock.sources.push.source import Parcel, Pushed, PushSource, ReusedIdError

__all__ = ["Parcel", "PushSource", "Pushed", "ReusedIdError"]
