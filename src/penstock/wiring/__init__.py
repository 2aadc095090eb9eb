"""From settings to objects: the only place that names concrete classes. Imports them lazily."""

from penstock.wiring.courses import Course, courses
from penstock.wiring.models import answerer, embedder, recent_vectors
from penstock.wiring.sources import row_views, source
from penstock.wiring.stores import embedded_postgres, log, publishing, snapshots, store, upkeep

__all__ = [
    "Course",
    "answerer",
    "courses",
    "embedded_postgres",
    "embedder",
    "log",
    "publishing",
    "recent_vectors",
    "row_views",
    "snapshots",
    "source",
    "store",
    "upkeep",
]
