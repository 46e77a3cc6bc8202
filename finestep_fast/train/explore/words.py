"""The words of the explore world: three themes, each of two entities and what links them.

A theme gives every idea several names, of which each table picks its own. Every name and value is
one word, values begin with a capital letter, and no name is an SQL keyword, so no query needs
quotes and a tiny model can copy what it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KEYS = _words("id nr code num")
LABELS = _words("name title label caption")
LINKS = _words("ref link owner target source part side point")
"""Names of a bridge's two foreign keys: they do not tell which table a key points to."""
FLAGS = _words("state status mark flag")
FORMS = (("Yes", "No"), ("Done", "Open"), ("Full", "Part"), ("High", "Low"))
"""How a flag may be stored: its positive and its negative form."""
OTHERS = _words("stores events notes routes rooms teams")
"""Tables that no question is about."""

_PEOPLE = _words("Ada Alan Ben Carl Clara Dana David Elena Emil Felix Grace Hugo Ida Jack Lena Max")
_THINGS = _words(
    """Lamp Chair Mirror Basket Candle Drill Ladder Hammer Vase Clock Bucket Camera Desk Drum
Ring Tent"""
)
_CITIES = _words("Rome Oslo Paris Lima Cairo Bern")


@dataclass(frozen=True)
class Entity:
    """One side of a theme; the first of its names is what questions call it."""

    tables: tuple[str, ...]
    labels: tuple[str, ...]
    """What its label column holds, each at most once."""
    category: tuple[str, ...]
    """Names of its category."""
    values: tuple[str, ...]
    """What a category may be; a database stores each with a digit of its own."""
    number: tuple[str, ...]
    """Names of its number."""


@dataclass(frozen=True)
class Theme:
    """Two entities and the bridge between them; the first name is what questions say."""

    name: str
    first: Entity
    second: Entity
    bridge: tuple[str, ...]
    """Names of the bridge table."""
    quantity: tuple[str, ...]
    """Names of its number."""
    flag: tuple[str, str]
    """What questions call rows whose flag has its positive form, and the others."""


def _persons(tables: str) -> Entity:
    return Entity(
        _words(tables),
        _PEOPLE,
        _words("city town place seat"),
        _CITIES,
        _words("age years rank size"),
    )


THEMES = (
    Theme(
        name="shop",
        first=Entity(
            _words("products goods items"),
            _THINGS,
            _words("kind sort type class"),
            _words("Garden Kitchen Office Travel Sport Music"),
            _words("price cost rate tag"),
        ),
        second=_persons("buyers clients people"),
        bridge=_words("sales orders deals"),
        quantity=_words("units amount pieces total"),
        flag=("paid", "unpaid"),
    ),
    Theme(
        name="library",
        first=Entity(
            _words("books volumes works"),
            _THINGS,
            _words("genre sort style shelf"),
            _words("Crime Poetry Science History Fantasy Romance"),
            _words("pages length size sheets"),
        ),
        second=_persons("readers members people"),
        bridge=_words("loans rentals leases"),
        quantity=_words("days amount span total"),
        flag=("ended", "running"),
    ),
    Theme(
        name="clinic",
        first=Entity(
            _words("doctors medics staff"),
            _PEOPLE,
            _words("ward class unit floor"),
            _words("Heart Bone Skin Nerve Blood Lung"),
            _words("salary pay wage rank"),
        ),
        second=_persons("patients cases people"),
        bridge=_words("visits stays checks"),
        quantity=_words("fee cost price bill"),
        flag=("settled", "unsettled"),
    ),
)
