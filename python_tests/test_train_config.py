"""Settings and the command line: what is wrong is named, and so is what would be right."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from finestep_fast.config import apply_overrides, as_mapping, build, read_yaml
from finestep_fast.errors import InputError
from finestep_fast.train.__main__ import main
from finestep_fast.train.config import TrainConfig, load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OWN_DATA = ("data.questions=q.json", "data.databases=d")


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_shipped_config_loads_by_path_and_by_name(path: Path) -> None:
    generated = any(world in path.stem for world in ("quickstart", "explore"))
    extra = [] if generated else [*OWN_DATA, "model=m"]
    config = load_config(path, extra)
    assert load_config(Path(path.stem), extra) == config
    assert build(TrainConfig, as_mapping(config)) == config


def test_without_a_file_the_quickstart_is_taken_or_the_agent_for_a_given_model() -> None:
    assert load_config(None, []) == load_config(Path("quickstart"), [])
    words = [*OWN_DATA, "model=m"]
    assert load_config(None, words) == load_config(Path("agent"), words)


def test_words_are_set_after_the_file_is_read() -> None:
    config = load_config(None, ["update.updates=3", "update.optim.learning_rate=1e-3", "seed=4"])
    assert (config.update.updates, config.update.optim.learning_rate, config.seed) == (3, 1e-3, 4)
    changed = apply_overrides(read_yaml(ROOT / "configs" / "quickstart.yaml"), ["seed=4"])
    assert load_config(None, ["seed=4"]) == build(TrainConfig, changed)


WRONG = [
    (["updat.updates=3"], "unknown key 'updat'; did you mean 'update'?"),
    (["update.update=3"], "update: unknown key 'update'; did you mean 'updates'?"),
    (["credit.dicount=1"], "credit: unknown key 'dicount'; did you mean 'process_discount'?"),
    (["credit.preset=finstep"], "credit: unknown preset 'finstep'; did you mean 'finestep'?"),
    (["credit.scope=poled"], "credit.scope is 'poled'; it must be"),
    (["credit.scope=poled"], "did you mean 'pooled'?"),
    (["precision=bfloat"], "precision is 'bfloat'; it must be"),
    (["precision=bfloat"], "did you mean 'bfloat16'?"),
    (["update.updates=many"], "update.updates is 'many'; it must be an integer"),
    (["update.updates=-1"], "update: updates is -1; it must be an integer >= 0"),
    (["update.updates=1.5"], "update.updates is 1.5; it must be an integer"),
    (["rollout.temperature=0"], "rollout: temperature is 0; it must be > 0"),
    (["rollout.temperature=.nan"], "temperature"),
    (["update.optim.beta2=2"], "update.optim: beta2 is 2; it must be >= 0 and <= 1"),
    (["warm_start.optim.schedule=cosin"], "did you mean 'cosine'?"),
    (["env.max_steps=0"], "env: max_steps is 0; it must be an integer >= 1"),
    (["env.schema_in_prompt=all"], "env.schema_in_prompt is 'all'; it must be"),
    (["loss.kl_weight=0.1"], "loss: kl_weight is 0.1 while kl is null; set kl or drop it"),
    (["data.dev_share=1"], "data: dev_share is 1; it must be >= 0 and <= 0.9"),
    (["data.limit=0"], "data: limit is 0; it must be an integer >= 1"),
    (["seed=-1"], "seed is -1; it must be an integer >= 0"),
    (["seed=true"], "seed is True; it must be an integer"),
    (["update=3"], "update: is 3; it must be a section of `key: value` lines"),
    (["rewards.novel_weight=-1"], "rewards: novel_weight is -1; it must be >= 0"),
    (["checkpoint.keep=0"], "checkpoint: keep is 0; it must be an integer >= 1"),
    (["data.questions=q.json"], "data: databases is missing; questions needs it"),
    (["data.databases=d"], "data: questions is missing; databases needs it"),
    (["data.dev_questions=q.json"], "data: dev_questions is 'q.json'; it needs questions"),
    (list(OWN_DATA), "model is null; with data.questions it must be the folder of a causal"),
    (
        [*OWN_DATA, "model=m", "warm_start.tokens=5"],
        "warm_start.tokens is 5; it must be 0 without data.demonstrations",
    ),
    (["credit.process_weight=0.5"], "credit: process_weight is 0.5: over 6 steps process rewards"),
    (["env.max_steps=40"], "which must stay below"),
    (
        ["credit.preset=finestep_decoupled", "credit.process_weight=0.6"],
        "for decoupled channels it must be at most outcome_weight / 2 = 0.5",
    ),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_wrong_setting_is_refused_by_key_value_and_rule(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, words)
    assert message in str(caught.value)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err == f"error: {caught.value}\n"
    assert shown.out == ""


def all_keys(cls: type, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Return every key of the settings, sections too."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path = (*above, field.name)
        yield ".".join(path)
        for option in (hints[field.name], *get_args(hints[field.name])):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                yield from all_keys(option, path)


MUST = ("it must be", "expected", "which must stay below", "set kl or drop it")
FAULTY: dict[
    str, tuple[str, str | tuple[str, ...]]
] = {  # values that no key can mean, and a part of the rule in the message
    "nested deeply": ("[" * 250, "is nested too deeply; it must have at most"),
    "nested mappings": ("{a: " * 200, "is nested too deeply; it must have at most"),
    "5000 digits": ("9" * 5000, "it must be a number of at most 300 digits"),
    "300 digits": ("9" * 300, MUST),
    "minus 250 digits": ("-" + "9" * 250, MUST),
    "an infinite float": ("1e999", MUST),
    "a lone surrogate": ('"\\ud800"', r"holds the character '\ud800'; it must be text"),
    "a byte that is no UTF-8": ("\udcff", "is not YAML"),
    "a NUL": ('"a\\0b"', r"holds the character '\x00'; it must be text"),
    "a list in itself": ("&a [*a]", "holds itself through an alias; it must be finite"),
    "a mapping in itself": ("&a {b: *a}", "holds itself through an alias; it must be finite"),
    "a zero before digits": ("068", "is 068; it must be a number without a leading 0, or text in"),
    "an octal of YAML 1.1": ("010", "is 010; it must be a number without a leading 0, or text in"),
    "a sign and a zero": ("-007", "is -007; it must be a number without a leading 0, or text in"),
    "a tag that lies": ("!!int x", "is x; it must be an integer"),
    "another tag that lies": ("!!bool perhaps", "is perhaps; it must be true or false"),
    "a date that is none": ("!!timestamp 2024-99-99", "is not YAML"),
    "an object": ("!!python/name:os.system", "is not YAML"),
    "two documents": ("--- 1\n--- 2", "is not YAML"),
    "an unknown alias": ("*a", "is not YAML"),
    "a list of lists": ("[1, [2]]", MUST),
    "many values": (
        "[&a [1,1,1,1,1,1,1,1,1,1], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a], "
        "&c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b], &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c], "
        "[*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]]",
        "holds more than 100000 values; drop some",
    ),
}
# A number of 250 digits is finite: a rate or a weight of that size is a matter of taste.
BOUNDLESS = {"300 digits"}


@pytest.mark.parametrize("fault", FAULTY)
def test_no_key_takes_a_value_that_no_key_can_mean(fault: str) -> None:
    text, rule = FAULTY[fault]
    for key in all_keys(TrainConfig):
        word = f"{key}={text}"
        try:
            build(TrainConfig, apply_overrides({}, [word]))
        except InputError as error:
            message = str(error)
            assert key.rpartition(".")[2] in message, word
            assert any(part in message for part in ([rule] if isinstance(rule, str) else rule)), (
                word
            )
            assert len(message) < 400, word
        else:
            number = fault in BOUNDLESS and isinstance(get_value(TrainConfig(), key), float | None)
            assert number, f"{word[:80]} is accepted"


def get_value(config: object, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def test_a_fault_in_a_file_is_named_with_its_line_or_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text, message in (
        ("seed: 1\nrollout:\n  prompts: 068\n", "run.yaml: line 3: is 068; it must be a number"),
        ('data:\n  limit: 3\noutput: "a\\0b"\n', r"run.yaml: output: holds the character '\x00'"),
        ("update: {optim: &a {b: *a}}", "run.yaml: update.optim.b: holds itself through an alias"),
        ("[" * 400, "run.yaml: is nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            load_config(path, [])
        assert message in str(caught.value)


def test_a_file_name_that_no_system_takes_is_refused() -> None:
    for name in ("x" * 300, "x" * 300 + ".yaml", "a\0b.yaml"):
        with pytest.raises(InputError):
            load_config(Path(name), [])
        with pytest.raises(InputError, match="resume is"):
            load_config(None, [f"resume={name}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["heads=3"], "small_model: heads is 3; it must divide half of hidden_size, 128 / 2"),
        (["heads=128"], "small_model: heads is 128; it must divide half of hidden_size, 128 / 2"),
        (["kv_heads=3"], "small_model: kv_heads is 3; it must divide heads, 4"),
        (["kv_heads=0"], "small_model: kv_heads is 0; it must be an integer >= 1"),
        (["heads=0"], "small_model: heads is 0; it must be an integer >= 1"),
        (["layers=0"], "small_model: layers is 0; it must be an integer >= 1"),
        (["hidden_size=-64"], "small_model: hidden_size is -64; it must be an integer >= 1"),
        (["vocab_size=266"], "small_model: vocab_size is 266; it must be an integer >= 267"),
    ],
)
def test_a_small_model_that_cannot_be_made_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [f"small_model.{word}" for word in words])
    assert str(caught.value) == message


def test_an_output_that_can_be_no_folder_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for output, reason in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("/dev/null/run"), "Not a directory"),
        (Path("/proc/none/run"), "No such file or directory"),
    ):
        assert main([f"output={output}"]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: output is '")
        assert f"it must be a folder, there or to be made: {reason}" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_imbalance_that_is_set_is_allowed() -> None:
    words = ["credit.process_weight=0.5", "credit.allow_reward_imbalance=true"]
    assert load_config(None, words).credit.process_weight == 0.5


def test_a_file_or_a_name_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config is 'quikstart'; expected one of the shipped"):
        load_config(Path("quikstart"), [])
    with pytest.raises(InputError, match=r"none.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml", [])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return the folder of a run; only its settings are read."""
    from finestep_fast.config import write_yaml

    folder = tmp_path / "run"
    folder.mkdir()
    config = load_config(None, ["seed=5", "output=elsewhere"])
    write_yaml(folder / "config.yaml", as_mapping(config))
    return folder


def test_a_resumed_run_keeps_its_settings_and_takes_the_ones_that_may_change(
    run_folder: Path,
) -> None:
    config = load_config(
        None,
        [f"resume={run_folder}", "update.updates=9", "eval.questions=3", "checkpoint.keep=2"],
    )
    assert config.seed == 5
    assert config.output == run_folder
    assert (config.update.updates, config.eval.questions, config.checkpoint.keep) == (9, 3, 2)


def test_a_resumed_run_takes_the_remedies_that_messages_name(run_folder: Path) -> None:
    words = ["update.head=logits", "precision=float32"]
    config = load_config(None, [f"resume={run_folder}", *words])
    assert (config.update.head, config.precision) == ("logits", "float32")


@pytest.mark.parametrize(
    "word", ["seed=6", "update.minibatches=1", "credit.preset=grpo", "model=m"]
)
def test_other_settings_of_a_resumed_run_are_refused(run_folder: Path, word: str) -> None:
    rule = (
        r"only update\.updates=, update\.head=, precision=, eval\., checkpoint\., "
        r"data\.max_unusable_share= may change"
    )
    with pytest.raises(InputError, match=rf"'{word}': a resumed run keeps its settings; {rule}"):
        load_config(None, [f"resume={run_folder}", word])


def test_a_resumed_run_takes_no_file_and_needs_a_folder(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quickstart must be left out"):
        load_config(Path("quickstart"), [f"resume={run_folder}"])
    with pytest.raises(InputError, match=r"it must be the folder of a run, which holds config"):
        load_config(None, [f"resume={tmp_path}"])


def test_two_files_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["quickstart", "agent"])
    assert caught.value.code == 2
    assert "one settings file at most; given: quickstart, agent" in capsys.readouterr().err


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finestep_fast.train", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_help_fits_on_a_screen_and_says_how_to_go_on() -> None:
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 100
    for word in ("CONFIG.yaml", "key=value", "resume=", "model=", "data.questions="):
        assert word in done.stdout


def test_a_misspelt_key_ends_the_command_with_status_2_and_one_line() -> None:
    done = command("rollout.promts=4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: rollout: unknown key 'promts'; did you mean 'prompts'?\n"


def test_fsdp_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main([f"output={tmp_path / 'run'}"]) == 2
    assert "FSDP was asked for; expected one process or several" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
