"""OpenLineage events: who reads what, writes what, and how far they are.

`jobs` says it of a project's settings, `events` puts it into words after the specification,
`watching` finds out when there is something to say, and `sending` says it.
"""
