"""From settings to objects: the only place that names concrete classes. Imports them lazily."""

from penstock.wiring.courses import Course, courses
from penstock.wiring.details import details_of
from penstock.wiring.gateway import gateway, spending
from penstock.wiring.ledger import ledger, sessions, stored_sessions, tracing
from penstock.wiring.lineage import lineage
from penstock.wiring.models import (
    answerer,
    completions,
    cross_encoder,
    embedder,
    models,
    recent_vectors,
    reranker,
    rewriter,
    serving_models,
    shaping,
)
from penstock.wiring.permissions import declared_permissions, declares_permissions
from penstock.wiring.profiles import profile_reader, profile_readers, profile_rules, profile_wanted
from penstock.wiring.pushing import inlets, mailed_inlets, pushes
from penstock.wiring.server import limits, rates, tls, tokens
from penstock.wiring.sources import row_views, source, table_reader
from penstock.wiring.stores import (
    api_keys,
    consumers,
    embedded_postgres,
    followers,
    log,
    log_prefix,
    publishing,
    snapshots,
    store,
    upkeep,
)
from penstock.wiring.workers import group

__all__ = [
    "Course",
    "answerer",
    "api_keys",
    "completions",
    "consumers",
    "courses",
    "cross_encoder",
    "declared_permissions",
    "declares_permissions",
    "details_of",
    "embedded_postgres",
    "embedder",
    "followers",
    "gateway",
    "group",
    "inlets",
    "ledger",
    "limits",
    "lineage",
    "log",
    "log_prefix",
    "mailed_inlets",
    "models",
    "profile_reader",
    "profile_readers",
    "profile_rules",
    "profile_wanted",
    "publishing",
    "pushes",
    "rates",
    "recent_vectors",
    "reranker",
    "rewriter",
    "row_views",
    "serving_models",
    "sessions",
    "shaping",
    "snapshots",
    "source",
    "spending",
    "store",
    "stored_sessions",
    "table_reader",
    "tls",
    "tokens",
    "tracing",
    "upkeep",
]
