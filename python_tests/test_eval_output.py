"""`python -m finestep_fast.eval` where what it writes is lost."""

from __future__ import annotations

import pytest

from finestep_fast.eval.__main__ import main
from support.evaluation import Evaluation
from support.programs import errors_of

LOST = {
    "no reader": ("| true", "standard output cannot be written: Broken pipe"),
    "full": ("> /dev/full", "standard output cannot be written: No space left on device"),
    "closed": (">&-", "standard output is closed; send it to a file, or to /dev/null"),
}


@pytest.mark.parametrize(
    ("case", "how"), [("no reader", ""), ("full", "--json"), ("closed", "")], ids=list(LOST)
)
def test_a_lost_standard_output_ends_with_one_sentence(
    evaluation: Evaluation, case: str, how: str
) -> None:
    redirection, message = LOST[case]
    words = ("-m", "finestep_fast.eval", *evaluation.words(), how)
    errors = errors_of(*words, redirection=redirection)
    *said, status = errors.splitlines()
    assert said[-1] == f"error: {message}"
    assert status == "2"
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_an_output_that_is_full_is_named(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(evaluation.words("--output", "/dev/full")) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "error: output '/dev/full': No space left on device"
