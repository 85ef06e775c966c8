import pytest

from cpd.verdict import Status, verdict


@pytest.mark.parametrize(
    ("statuses", "want"),
    [
        ([], "pass"),
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
    ],
)
def test_one_failure_fails_and_one_that_is_undecided_withholds_the_pass(statuses: list[Status], want: Status) -> None:
    assert verdict(statuses) == want
