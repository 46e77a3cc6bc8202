"""The words of the explore world: three themes, each of two entities and what links them.

A theme gives every idea several names, of which each table picks its own. Every name and value is
one word, values begin with a capital letter, and no name is an SQL keyword, so no query needs
quotes and a tiny model can copy what it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KEY = "id"
"""The key of every table."""
LABELS = _words("name title label caption")
LINK_ENDINGS = _words("ref link code nr")
"""What may follow a table's name in the name of a foreign key to it."""
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
    """One side of a theme. No table uses the words that questions say."""

    word: str
    """What questions call it."""
    tables: tuple[str, ...]
    """Names of its table."""
    labels: tuple[str, ...]
    """What its label column holds, each at most once."""
    category_word: str
    """What questions call its category."""
    category: tuple[str, ...]
    """Names of its category."""
    values: tuple[str, ...]
    """What a category may be; a table stores each with a digit of its own."""
    number_word: str
    """What questions call its number."""
    number: tuple[str, ...]
    """Names of its number."""


@dataclass(frozen=True)
class Theme:
    """Two entities and the bridge between them."""

    name: str
    first: Entity
    second: Entity
    bridge_word: str
    """What questions call the rows of the bridge."""
    bridge: tuple[str, ...]
    """Names of the bridge."""
    quantity_word: str
    """What questions call its number."""
    quantity: tuple[str, ...]
    """Names of its number."""
    flag: tuple[str, str]
    """What questions call rows whose flag has its positive form, and the others."""


def _persons(word: str, tables: str) -> Entity:
    return Entity(
        word=word,
        tables=_words(tables),
        labels=_PEOPLE,
        category_word="city",
        category=_words("town place seat home"),
        values=_CITIES,
        number_word="age",
        number=_words("years rank size born"),
    )


THEMES = (
    Theme(
        name="shop",
        first=Entity(
            word="products",
            tables=_words("goods items wares"),
            labels=_THINGS,
            category_word="kind",
            category=_words("sort type class range"),
            values=_words("Garden Kitchen Office Travel Sport Music"),
            number_word="price",
            number=_words("cost rate tag rank"),
        ),
        second=_persons("buyers", "clients people users"),
        bridge_word="sales",
        bridge=_words("orders deals trades"),
        quantity_word="units",
        quantity=_words("amount pieces total size"),
        flag=("paid", "unpaid"),
    ),
    Theme(
        name="library",
        first=Entity(
            word="books",
            tables=_words("volumes works prints"),
            labels=_THINGS,
            category_word="genre",
            category=_words("sort style shelf class"),
            values=_words("Crime Poetry Science History Fantasy Romance"),
            number_word="pages",
            number=_words("length size sheets rate"),
        ),
        second=_persons("readers", "members people users"),
        bridge_word="loans",
        bridge=_words("rentals leases orders"),
        quantity_word="days",
        quantity=_words("amount span total length"),
        flag=("ended", "running"),
    ),
    Theme(
        name="clinic",
        first=Entity(
            word="doctors",
            tables=_words("medics staff experts"),
            labels=_PEOPLE,
            category_word="ward",
            category=_words("class unit floor place"),
            values=_words("Heart Bone Skin Nerve Blood Lung"),
            number_word="salary",
            number=_words("pay wage rank rate"),
        ),
        second=_persons("patients", "cases people members"),
        bridge_word="visits",
        bridge=_words("stays checks trades"),
        quantity_word="fee",
        quantity=_words("cost amount bill total"),
        flag=("settled", "unsettled"),
    ),
)
