"""Who is who: from evidence to profiles. Pure: no store, no log, no clock, no state."""
