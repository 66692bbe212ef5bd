"""How many prompt tokens a step gets beside the rows that go on."""

from __future__ import annotations

from pace import FEWEST_TOKENS, Pace


def learnt(plain_seconds: float = 0.05, rows: int = 8, seconds_per_token: float = 0.001) -> Pace:
    pace = Pace(512)
    pace.took(plain_seconds, continuing=rows, prompt_tokens=0)
    pace.took(plain_seconds + 100 * seconds_per_token, continuing=rows, prompt_tokens=100)
    return pace


def test_nobody_waits_for_a_next_token() -> None:
    assert learnt().tokens(continuing=0, waiting=1) == 512


def test_nothing_is_known_yet() -> None:
    assert Pace(512).tokens(continuing=8, waiting=1) == 512


def test_one_prompt_makes_a_step_two_thirds_longer() -> None:
    assert learnt().tokens(continuing=8, waiting=1) in (32, 33)


def test_each_waiting_row_adds_as_much() -> None:
    assert learnt().tokens(continuing=8, waiting=4) in (129, 130)
    assert learnt().tokens(continuing=8, waiting=400) == 512


def test_a_slow_machine_still_goes_forward() -> None:
    assert learnt(seconds_per_token=1.0).tokens(continuing=8, waiting=1) == FEWEST_TOKENS
    assert Pace(7).tokens(continuing=8, waiting=1) == 7


def test_a_machine_whose_arithmetic_is_the_limit_gets_smaller_pieces() -> None:
    assert learnt(plain_seconds=0.04, seconds_per_token=0.002).tokens(continuing=8, waiting=1) in (12, 13)


def test_more_rows_than_were_measured_count_as_the_most_that_were() -> None:
    assert learnt(rows=8).tokens(continuing=30, waiting=1) in (32, 33)
    # Fewer rows than any that were measured: nothing is known of them.
    assert learnt(rows=8).tokens(continuing=2, waiting=1) == 512


def test_a_machine_that_becomes_slower_is_followed() -> None:
    pace = learnt()
    for _ in range(40):
        pace.took(0.1, continuing=8, prompt_tokens=0)
        pace.took(0.1 + 0.4, continuing=8, prompt_tokens=100)
    assert pace.tokens(continuing=8, waiting=1) in (16, 17)


def test_a_few_slow_steps_before_a_prompt_make_its_pieces_no_larger() -> None:
    pace = learnt()
    for seconds in [0.05] * 5 + [0.2] * 4:
        pace.took(seconds, continuing=8, prompt_tokens=0)
    assert pace.tokens(continuing=8, waiting=1) in (32, 33)
