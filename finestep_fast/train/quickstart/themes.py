"""The words of the quickstart's four themes: tables, columns and the values they hold.

Only words; how a database spells its columns is in `databases`. Every value is one word, no
value belongs to two columns of a theme, and no column's word is an SQL keyword, so a plain
spelling never needs quotes.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_OBJECTS = _words(
    """Lamp Chair Kettle Mirror Pillow Basket Candle Drill Ladder Hammer Teapot Vase Clock
Blanket Bucket Camera Carpet Compass Curtain Desk Drum Fan Flute Guitar Helmet Kite Lantern
Mixer Mug Necklace Oven Pan Radio Ring Scarf Shelf Sofa Tent Toaster Wallet"""
)
_PEOPLE = _words(
    """Ada Alan Alice Amir Anna Ben Carl Chen Clara Dana David Elena Emil Eva Felix Fiona
Grace Hana Hugo Ida Ivan Jack Jane Julia Karim Lena Leo Lucy Maria Max Mia Nina Noah Omar Paul
Rosa Sam Sara Tom Yuki"""
)
_TITLES = _words(
    """Harbor Winter Orchard Compass Shadow River Mountain Garden Lantern Island Desert
Forest Bridge Castle Mirror Thunder Voyage Feather Meadow Canyon Glacier Horizon Labyrinth
Midnight Ocean Prairie Quarry Riddle Silence Tempest Valley Whisper Sunrise Comet Ember Falcon
Granite Ivory Jungle Legend"""
)
_CITIES = ("Rome", "Oslo", "Paris", "Lima", "Cairo")


@dataclass(frozen=True)
class Theme:
    """The words from which the databases of one theme are put together."""

    name: str
    main_tables: tuple[tuple[str, str], ...]
    """Plural (the table's name) and singular (the word of the child's foreign key)."""
    child_tables: tuple[str, ...]
    labels: tuple[str, ...]
    """What the main table's `name` column holds, each at most once per database."""
    text: dict[str, tuple[str, ...]]
    """The three text columns of the main table and their values."""
    number: dict[str, tuple[int, int]]
    """Number columns of the main table, three of which a database has, and their ranges.
    Numbers are multiples of five: a tiny model must copy them, so there are few."""
    child_text: tuple[str, tuple[str, ...]]
    child_number: tuple[str, tuple[int, int]]
    child_date: str


THEMES = (
    Theme(
        name="shop",
        main_tables=(("products", "product"), ("items", "item")),
        child_tables=("sales", "orders"),
        labels=_OBJECTS,
        text={
            "city": _CITIES,
            "color": ("red", "blue", "green", "white"),
            "brand": ("Acme", "Nova", "Zenith", "Orbit"),
        },
        number={"price": (5, 95), "stock": (10, 90), "weight": (5, 90), "rating": (10, 95)},
        child_text=("channel", ("web", "phone", "fair", "mail", "market", "agent")),
        child_number=("units", (5, 60)),
        child_date="booked",
    ),
    Theme(
        name="school",
        main_tables=(("students", "student"), ("pupils", "pupil")),
        child_tables=("exams", "tests"),
        labels=_PEOPLE,
        text={
            "city": _CITIES,
            "club": ("chess", "drama", "choir", "dance"),
            "house": ("Eagle", "Lion", "Wolf", "Bear"),
        },
        number={"age": (10, 90), "height": (110, 195), "score": (10, 95), "points": (5, 95)},
        child_text=("subject", ("math", "art", "music", "latin", "history", "physics")),
        child_number=("marks", (5, 60)),
        child_date="taken",
    ),
    Theme(
        name="library",
        main_tables=(("books", "book"), ("volumes", "volume")),
        child_tables=("loans", "rentals"),
        labels=_TITLES,
        text={
            "city": _CITIES,
            "genre": ("crime", "poetry", "travel", "science"),
            "author": ("Smith", "Tanaka", "Garcia", "Novak"),
        },
        number={"pages": (80, 190), "copies": (5, 90), "price": (5, 95), "rating": (10, 95)},
        child_text=("branch", ("north", "south", "east", "west", "center", "campus")),
        child_number=("days", (5, 60)),
        child_date="started",
    ),
    Theme(
        name="clinic",
        main_tables=(("patients", "patient"), ("members", "member")),
        child_tables=("visits", "checks"),
        labels=_PEOPLE,
        text={
            "city": _CITIES,
            "doctor": ("Adler", "Baker", "Costa", "Diaz"),
            "ward": ("alpha", "beta", "gamma", "omega"),
        },
        number={"age": (10, 90), "height": (110, 195), "weight": (30, 95), "pulse": (50, 130)},
        child_text=("reason", ("fever", "cough", "burn", "sprain", "rash", "eyes")),
        child_number=("cost", (5, 90)),
        child_date="held",
    ),
)
