"""How far a transfer is, in numbers and in words."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from scripts import report
from scripts.progress import Counter, Progress

MB = 1_000_000


def test_rate_and_time_left_are_of_what_was_sent() -> None:
    # Half of the content was there already: it says nothing about how quick the line is.
    done = Progress(0, 1, 60 * MB, 100 * MB, "model", bytes_sent=10 * MB, seconds=5)
    assert done.bytes_per_second == 2 * MB
    assert done.seconds_left is not None
    assert 20 <= done.seconds_left < 20.1
    assert report.transfer(done) == "0 of 1 files, 60.0 MB of 100.0 MB, 2.0 MB/s, 20 s left"


def test_nothing_sent_yet_has_no_rate() -> None:
    assert report.transfer(Progress(1, 4, 100, 200, "a", seconds=3)) == "1 of 4 files, 100 B of 200 B"
    just_begun = Progress(1, 4, 100, 200, "a", bytes_sent=100, seconds=0.4)
    assert report.transfer(just_begun) == "1 of 4 files, 100 B of 200 B"


def test_many_small_files_count_by_their_requests() -> None:
    done = Progress(500, 1000, 500, 2 * MB, "a", bytes_sent=500, seconds=10)
    assert done.seconds_left is not None
    assert 10 < done.seconds_left < 12


def test_long_times_are_told_in_minutes_and_hours() -> None:
    def told(bytes_total: int) -> str:
        return report.transfer(Progress(1, 1, MB, bytes_total, "a", bytes_sent=MB, seconds=1)).rpartition(", ")[2]

    assert told(100 * MB) == "1 min 33 s left"
    assert told(10_000 * MB) == "2 h 36 min left"


def test_a_counter_adds_up_what_many_threads_do() -> None:
    told: list[Progress] = []
    counter = Counter(400, 4000, told.append)
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for number in range(400):
            pool.submit(counter.add, f"{number}", 10, sent_bytes=7, files=1)
    assert (told[-1].files_done, told[-1].bytes_done, told[-1].bytes_sent) == (400, 4000, 2800)
    assert [step.files_done for step in told] == list(range(1, 401))
    assert 0 < told[-1].seconds <= time.monotonic() - begun + 1
