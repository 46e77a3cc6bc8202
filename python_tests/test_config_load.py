"""The strict loader: files and `key=value` words become frozen dataclasses, or a clear error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast import CreditConfig, InputError, LossConfig
from finestep_fast.config import apply_overrides, as_mapping, build, read_yaml, write_yaml


@dataclass(frozen=True)
class Optim:
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["adamw", "sgd"] = "adamw"
    steps: int | None = None


@dataclass(frozen=True)
class Run:
    name: str
    optim: Optim = field(default_factory=Optim)
    folder: Path | None = None
    tags: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    resume: bool = False
    credit: CreditConfig = field(default_factory=CreditConfig)
    loss: LossConfig | None = None


def load(text: str, path: Path) -> Run:
    file = path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return build(Run, read_yaml(file))


def test_a_file_becomes_nested_settings(tmp_path: Path) -> None:
    run = load(
        """
        name: first
        folder: runs/a b
        tags: [x, "1"]
        weights: {format: 1, novel: 0.5}
        optim: {rate: 1e-4, betas: [1, 0.5], steps: 7}
        credit: {preset: grpo, std: population}
        loss: {kl: k3, kl_weight: 1e-2}
        """,
        tmp_path,
    )
    assert run == Run(
        name="first",
        folder=Path("runs/a b"),
        tags=("x", "1"),
        weights={"format": 1.0, "novel": 0.5},
        optim=Optim(1e-4, (1.0, 0.5), "adamw", 7),
        credit=CreditConfig.preset("grpo", std="population"),
        loss=LossConfig(kl="k3", kl_weight=0.01),
    )
    assert isinstance(run.optim.betas[0], float)


def test_what_a_file_leaves_out_takes_its_default(tmp_path: Path) -> None:
    assert load("name: x\ncredit: {}\nloss: null", tmp_path) == Run("x")


def test_credit_without_a_preset_changes_the_default_method() -> None:
    assert build(CreditConfig, {"std_floor": 0}) == CreditConfig(std_floor=0)
    assert build(CreditConfig, {"preset": "matchtir"}) == CreditConfig.preset("matchtir")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        (".inf", float("inf")),
        ("17", 17),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_values_are_read_as_yaml_1_2(text: str, value: Any) -> None:
    read = apply_overrides({}, [f"key={text}"])["key"]
    assert read == value
    assert type(read) is type(value)


def test_overrides_reach_into_sections_and_the_last_wins() -> None:
    given = {"optim": {"rate": 1, "steps": 3}, "name": "x"}
    changed = apply_overrides(
        given, ["optim.rate=1e-5", "credit.preset=grpo", "name=a=b", "name=c"]
    )
    assert changed == {
        "optim": {"rate": 1e-5, "steps": 3},
        "credit": {"preset": "grpo"},
        "name": "c",
    }
    assert given == {"optim": {"rate": 1, "steps": 3}, "name": "x"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.rate", r"'optim.rate': it must read key=value"),
        ("=3", r"'=3': it must read key=value"),
        ("optim..rate=3", r"it must read key=value"),
        ("name.first=3", r"'name.first=3': name is 'x'; it must be a section"),
        ("name=[1", r"name: is not YAML: "),
    ],
)
def test_a_wrong_override_is_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_overrides({"name": "x"}, [word])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nme=1", "unknown key 'nme'; did you mean 'name'?"),
        ("optim.raet=1", "optim: unknown key 'raet'; did you mean 'rate'?"),
        ("optim.zzz=1", "optim: unknown key 'zzz'; it must be 'rate', 'betas', 'kind' or 'steps'"),
        ("credit.dicount=1", "credit: unknown key 'dicount'; did you mean 'process_discount'?"),
        ("credit.preset=grop", "credit: unknown preset 'grop'; did you mean 'grpo'?"),
        ("credit.presset=grpo", "credit: unknown key 'presset'; did you mean 'preset'?"),
        ("credit.process_weight=-1", "credit: process_weight is -1; it must be >= 0"),
        ("credit.scope=poled", "credit.scope is 'poled'; it must be .*; did you mean 'pooled'?"),
        ("loss.kl=k4", "loss.kl is 'k4'; it must be 'k1', 'k2' or 'k3'"),
        ("loss.kl_weight=1", "loss: kl_weight is 1 while kl is null"),
        ("name=3", "name is 3; it must be a string"),
        ("optim.steps=ten", "optim.steps is 'ten'; it must be an integer"),
        ("optim.steps=1.5", "optim.steps is 1.5; it must be an integer"),
        ("optim.steps='7'", "optim.steps is '7'; it must be an integer"),
        ("optim.rate=fast", "optim.rate is 'fast'; it must be a number"),
        ("optim.rate=true", "optim.rate is True; it must be a number"),
        ("optim.kind=adam", "optim.kind is 'adam'; it must be .*; did you mean 'adamw'?"),
        ("optim.betas=[1, x]", "optim.betas.1 is 'x'; it must be a number"),
        ("tags=a", "tags is 'a'; it must be a list"),
        ("weights.format=a", "weights.format is 'a'; it must be a number"),
        ("resume=1", "resume is 1; it must be a boolean"),
        ("optim=fast", "optim: is 'fast'; it must be a section of `key: value` lines"),
        ("optim=null", "optim: is None; it must be a section"),
    ],
)
def test_a_wrong_value_is_refused_by_key_value_and_rule(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        build(Run, apply_overrides({"name": "x"}, [word]))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"^missing key 'name'$"):
        build(Run, {})
    with pytest.raises(InputError, match=r"^run: missing key 'name'$"):
        build(Run, {}, where="run")


def test_the_path_of_a_section_stands_before_every_error() -> None:
    with pytest.raises(InputError, match=r"^run\.optim: unknown key 'x'"):
        build(Run, {"name": "a", "optim": {"x": 1}}, where="run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' stands there twice"),
        ("a: {b: 1, b: 2}\n", "line 1: key 'b' stands there twice"),
        ("- a\n- b\n", "holds a list; it must hold `key: value` lines"),
        ("just text\n", "holds the value 'just text'"),
        ("a: [1\n", "is not YAML: "),
        ("a: !!python/object:os.system x\n", "is not YAML: "),
    ],
)
def test_a_file_that_is_not_a_mapping_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"bad.yaml: {message}"):
        read_yaml(file)


def test_a_missing_or_unreadable_file_is_refused_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read: .*No such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"latin\.yaml: cannot be read: "):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").touch()
    assert read_yaml(tmp_path / "empty.yaml") == {}


RUNS = st.builds(
    Run,
    name=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"])),
    folder=st.none() | st.just(Path("a/b")),
    tags=st.lists(st.sampled_from(["1", "no", "null", "1e3", "x: y", ""])).map(tuple),
    weights=st.dictionaries(st.sampled_from(["a", "b"]), st.floats(allow_nan=False)),
    optim=st.builds(Optim, rate=st.floats(1e-9, 1), steps=st.none() | st.integers()),
    credit=st.builds(CreditConfig, epsilon=st.floats(0, 1e-6)),
    loss=st.none() | st.just(LossConfig(kl="k1")),
)


@given(run=RUNS)
def test_settings_written_to_a_file_come_back_equal(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("run") / "run.yaml"
    write_yaml(file, as_mapping(run))
    assert build(Run, read_yaml(file)) == run
