"""Several predictions for a question: pass@k and the vote."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.env.question import Question
from finestep_fast.eval.__main__ import main
from finestep_fast.eval.vote import ballots_of, elected, pass_at
from finestep_fast.sql import Engine, Semantics
from support.evaluation import GOLDS, PREDICTED, Evaluation, found
from support.json_lines import json_lines

LONDON, CITIES = GOLDS[0][2], GOLDS[1][2]
WRONG, OTHER, BAD = "SELECT name FROM customer", "SELECT 1", "SELECT nam FROM customer"


def test_pass_at_k_by_hand() -> None:
    assert pass_at(1, 4, 1) == pytest.approx(1 / 4)
    assert pass_at(2, 4, 1) == pytest.approx(1 / 2)  # 1 - 3/6
    assert pass_at(2, 4, 2) == pytest.approx(5 / 6)  # 1 - 1/6
    assert pass_at(3, 5, 2) == pytest.approx(9 / 10)  # 1 - 1/10
    assert (pass_at(4, 4, 1), pass_at(4, 4, 0), pass_at(3, 4, 2)) == (1.0, 0.0, 1.0)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    for num_samples in range(1, 7):
        for num_right in range(num_samples + 1):
            for k in range(1, num_samples + 1):
                draws = list(combinations(range(num_samples), k))
                share = sum(min(draw) < num_right for draw in draws) / len(draws)
                assert pass_at(k, num_samples, num_right) == pytest.approx(share)


def test_the_first_of_the_most_frequent_is_elected() -> None:
    assert elected(["a", "b", "b"]) == 1
    assert elected(["b", "a", "a", "b"]) == 0
    assert elected(["", "", "c"]) == 2
    assert elected(["", ""]) is None


def test_equal_results_have_equal_ballots_as_the_semantics_has_it(
    shop: Path, engine: Engine
) -> None:
    rows = ["1, 'a' UNION ALL SELECT 2, 'b'", "2.0, 'b' UNION ALL SELECT 1, 'a'"]
    queries = [f"SELECT {row}" for row in (*rows, f"{rows[0]} UNION ALL SELECT 1, 'a'")]
    question = Question("", "", "", "", shop)
    expected: dict[Semantics, list[int]] = {
        "bird": [0, 0, 0],
        "multiset": [0, 0, 2],
        "strict": [0, 0, 2],
        "ordered": [0, 1, 2],
    }
    for semantics, classes in expected.items():
        ballots = ballots_of([(question, sql) for sql in queries], engine, semantics)
        assert [ballots.index(ballot) for ballot in ballots] == classes
    assert ballots_of([(question, BAD)], engine, "bird") == [""]
    text_and_number = [(question, "SELECT '1'"), (question, "SELECT 1")]
    assert len(set(ballots_of(text_and_number, engine, "bird"))) == 2


def with_samples(evaluation: Evaluation, predicted: list[Any]) -> None:
    (evaluation.folder / "predictions.json").write_text(json.dumps(predicted), encoding="utf-8")


SAMPLES = [
    [PREDICTED[0], LONDON, WRONG, BAD],  # 2 of 4 right and elected
    [WRONG, OTHER, OTHER, CITIES],  # 1 of 4 right, not elected
    [BAD, None, BAD, "SELECT id, name FROM customer"],  # 1 of 4 right: all others fail
    [BAD, WRONG, WRONG, WRONG],  # its gold fails
    [BAD, BAD, BAD, BAD],
    None,
]


def test_pass_at_k_and_majority_over_questions(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    with_samples(evaluation, SAMPLES)
    output = evaluation.folder / "out.jsonl"
    printed = found(capsys, evaluation.words("--pass-at", "1, 2,4", "--output", output))
    overall = printed["overall"]
    assert overall["questions"] == 6
    assert (overall["gold_failed"], overall["no_prediction"]) == (1, 1)
    assert overall["ex"] == {"bird": pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 6)}
    assert overall["pass_at"] == {
        "bird": {
            "1": pytest.approx(1 / 6),
            "2": pytest.approx((5 / 6 + 1 / 2 + 1 / 2) / 6),
            "4": pytest.approx(3 / 6),
        }
    }
    assert overall["majority"] == {"bird": pytest.approx(2 / 6)}
    assert overall["ex_where_gold_ran"] == {"bird": pytest.approx(1 / 5)}
    assert printed["by_difficulty"]["simple"]["majority"] == {"bird": 0.5}
    assert printed["pass_at"] == [1, 2, 4]
    kept = json_lines(output)
    assert len(kept) == 21
    assert [entry["sample"] for entry in kept[:5]] == [0, 1, 2, 3, 0]
    assert [entry["is_elected"] for entry in kept[:12]] == [
        *(True, False, False, False),
        *(False, True, False, False),
        *(False, False, False, True),
    ]
    assert "sample" not in kept[-1]
    assert any(remark.startswith("EX and Soft-F1 are means") for remark in printed["remarks"])


def test_soft_f1_is_the_mean_over_predictions(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    with_samples(evaluation, [[LONDON, OTHER], LONDON, *SAMPLES[2:]])
    overall = found(capsys, evaluation.words("--limit", "1"))["overall"]
    assert (overall["soft_f1"], overall["ex"]) == (0.5, {"bird": 0.5})
    assert overall["pass_at"] == {"bird": {"1": 0.5, "2": 1.0}}


def test_the_table_has_a_column_for_each_k_and_for_the_vote(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    with_samples(evaluation, SAMPLES)
    assert main(evaluation.words("--semantics", "bird,strict")) == 0
    printed = capsys.readouterr().out.replace("┃", " ").replace("│", " ")
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    assert "questions EX bird pass@4 majority EX strict pass@4 majority Soft-F1" in rows
    shares = "16.67% 50.00% 33.33% 16.67% 50.00% 33.33%"
    assert any(row.startswith(f"all 6 {shares}") for row in rows)


def test_a_single_prediction_for_each_question_reads_as_before(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = found(capsys, evaluation.words())
    assert not {"pass_at", "majority"} & printed["overall"].keys()
    with_samples(evaluation, [[sql] for sql in PREDICTED])
    in_lists = found(capsys, evaluation.words())
    assert in_lists["overall"] == printed["overall"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pass-at", "0"), "--pass-at is '0'; expected numbers above 0, as in 1,4,8"),
        (("--pass-at", "1,x"), "--pass-at is '1,x'; expected numbers above 0"),
        (("--pass-at", "1,8"), "key '1' has 2 predictions; expected at least 8"),
        (("--efficiency", "1"), "--efficiency times one prediction per question; the file has"),
    ],
)
def test_unusable_options_are_named(
    evaluation: Evaluation,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, str],
    message: str,
) -> None:
    samples = {str(i): [OTHER] * n for i, n in enumerate((4, 2, 3, 9, 9, 9))}
    (evaluation.folder / "predictions.json").write_text(json.dumps(samples))
    assert main(evaluation.words(*words)) == 2
    assert message in capsys.readouterr().err


def test_beams_of_real_predictions_give_the_shares_recorded(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "spider_dev"
    predicted, recorded = (
        [line[key]["chatgpt_beam5"] for line in json_lines(folder / name)]
        for name, key in (("predictions.jsonl", "preds"), ("reference_verdicts.jsonl", "verdicts"))
    )
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(predicted), encoding="utf-8")
    files = ("--questions", folder / "questions.jsonl", "--databases", folder / "databases")
    printed = found(capsys, [str(word) for word in (path, *files, "--pass-at", "1,2,5")])
    right = [[verdict[0] == "1" for verdict in verdicts] for verdicts in recorded]
    assert {len(verdicts) for verdicts in right} == {5}
    draws = list(combinations(range(5), 2))
    expected = {
        "1": sum(sum(r) / 5 for r in right) / len(right),
        "2": sum(sum(r[a] or r[b] for a, b in draws) / 10 for r in right) / len(right),
        "5": sum(any(r) for r in right) / len(right),
    }
    assert printed["overall"]["pass_at"]["bird"] == pytest.approx(expected)
    assert expected["1"] < printed["overall"]["majority"]["bird"] < expected["5"]
