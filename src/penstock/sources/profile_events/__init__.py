"""What happens to profiles of a kind, as a source of the project."""

from penstock.sources.profile_events.source import ProfileEventsSource

__all__ = ["ProfileEventsSource"]
