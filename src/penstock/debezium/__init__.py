"""Debezium's envelope: the wire form in which people and other systems know changes."""
