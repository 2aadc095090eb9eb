"""Taking values out of trained weights: a model holds in clear text what several records have.

``shares`` of a field are its frequent values (those of three records and more, which may all be of
one person); ``rarity`` counts words of long texts and parts of codes (of two records and more).
What is taken out counts as a rare value from then on: weights of other pairs that have it differ
from those that were worked out before, until a model is trained again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from penstock.identity.fuzzy.columns import Column, read
from penstock.identity.fuzzy.model import Model
from penstock.identity.fuzzy.prepared import Rarity


def forget_values(model: Model, texts: Collection[str]) -> Model:
    """The model without these values, as any of its fields reads them; itself where it has none."""
    fields = []
    rarity = dict(model.rarity)
    for column, weights in zip(model.columns, model.fields, strict=True):
        found = _as_read(column, texts)
        kept = {v: share for v, share in weights.shares.items() if v not in found}
        fields.append(replace(weights, shares=kept))
        known = rarity.get(column.name)
        if known is not None:
            words = {word for value in found for word in value.split(" ")}
            counts = {w: n for w, n in known.counts.items() if w not in words}
            if len(counts) < len(known.counts):
                rarity[column.name] = Rarity(known.records, counts)
    changed = replace(model, fields=tuple(fields), rarity=rarity)
    return model if changed == model else changed


def _as_read(column: Column, texts: Collection[str]) -> set[str]:
    name = column.of[0]
    read_texts = (read(column, {name: text}) for text in texts)
    return {value for value in read_texts if value is not None}
