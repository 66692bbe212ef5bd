"""How long an endpoint does not answer while what is behind it changes.

Asks /ready all the while from a thread of its own. Knows an endpoint; knows no replica and no release.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from scripts.endpoint import Endpoint
from scripts.errors import CloudError

ASKED_EVERY_SECONDS = 0.1
"""The measure is as fine as that."""

SLOW_SECONDS = 1.0
"""An answer that takes longer was held back until somebody could give it, and counts as none for so long."""

_ANSWER_SECONDS = 60.0


class GapWatch:
    """Use it as a context manager around the change; when it ends it takes a last look.

    seconds is how long no request was answered, all such times together; answered how many requests were.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.seconds = 0.0
        self.answered = 0
        self._endpoint = endpoint.with_key(None)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gap", daemon=True)

    def __enter__(self) -> GapWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # Whoever is interrupted does not wait for an answer that may not come.
        self._thread.join(None if error is None else 0.0)

    def _watch(self) -> None:
        with self._endpoint:
            last_answered, missed, is_last = time.monotonic(), False, False
            while not is_last:
                is_last = self._over.wait(ASKED_EVERY_SECONDS)
                asked = time.monotonic()
                answers = self._answers()
                now = time.monotonic()
                missed = missed or not answers or now - asked > SLOW_SECONDS
                if missed and (answers or is_last):
                    self.seconds += now - last_answered
                if answers:
                    self.answered += 1
                    last_answered, missed = now, False

    def _answers(self) -> bool:
        try:
            return self._endpoint.ready(answer_seconds=_ANSWER_SECONDS).http_status == 200
        except CloudError:
            return False
