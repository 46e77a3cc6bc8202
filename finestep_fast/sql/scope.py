"""What the names in one SELECT may refer to.

Not the walk that fills them in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from finestep_fast.sql.schema import ROWID_NAMES


@dataclass(slots=True)
class Source:
    """One thing in a FROM clause."""

    mark: str
    """What stands for it in the normal form."""
    columns: Mapping[str, str] | None
    """Its folded column names with what stands for each; none if they cannot be known."""
    table: str = ""
    """The folded name of the table it is, empty if it is made by the query itself."""
    missing: bool = False
    """Whether it is a table that does not exist."""

    def has(self, name: str) -> bool:
        """Return whether it surely has a column of that name."""
        if self.columns is not None and name in self.columns:
            return True
        return bool(self.table) and not self.missing and name in ROWID_NAMES


@dataclass(slots=True)
class Scope:
    """What the names inside one SELECT may refer to."""

    parent: Scope | None
    """The scope around a correlated subquery."""
    defined: dict[str, Source]
    """Common table expressions visible in it."""
    sources: dict[str, Source] = field(default_factory=dict)
    """What its FROM clause holds, by folded alias."""
    aliases: dict[str, str] = field(default_factory=dict)
    """The names its output columns are given, with the normal form behind each."""
    merged: set[str] = field(default_factory=set)
    """Columns that NATURAL or USING makes one of several."""

    def outward(self) -> Iterator[Scope]:
        """Return this scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


def found_source(name: str, scope: Scope) -> Source | None:
    """Return what a qualifier means: the innermost source of that name."""
    for around in scope.outward():
        if name in around.sources:
            return around.sources[name]
    return None


def known(name: str, scope: Scope) -> bool:
    """Return whether an unqualified name surely is a column or an alias."""
    return any(
        name in around.aliases or any(source.has(name) for source in around.sources.values())
        for around in scope.outward()
    )
