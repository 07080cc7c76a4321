"""Asking a drive, whether it answers at once or later, without a stack that grows with the answers."""

from collections.abc import Callable
from typing import Any, Final


class Pending:
    """The answer is not there yet."""


PENDING: Final = Pending()


def ask(request: Callable[[Callable[[Any], None]], None], later: Callable[[Any], None]) -> Any:
    """Makes `request(done)`.  The answer if it came before the call returned; else PENDING: `later` gets it.

    So that a chip can loop over answers that come at once instead of calling itself.  Answers come under the
    machine lock, which the caller holds: none slips in between.
    """
    answer: Any = PENDING
    returned = False

    def done(value: Any) -> None:
        nonlocal answer
        if returned:
            later(value)
        else:
            answer = value

    request(done)
    returned = True
    return answer
