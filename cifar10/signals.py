"""Signals that ask the program to stop."""

import os
import signal
import sys

from cifar10.errors import Interrupted


class Signals:
    """SIGINT and SIGTERM: the first stops the program when it can, a second one at once.

    Attributes:
        asked: the number of the signal that came, if one did.
    """

    def __init__(self):
        self.asked: int | None = None
        self.listening = self.held = False

    def listen(self) -> None:
        """Take over both signals from whoever has them."""
        self.listening = True
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, number: int, _: object) -> None:
        if self.asked is not None:
            os._exit(128 + number)
        self.asked = number
        if not self.held:
            raise Interrupted(number)
        print("\nstopping after this step; again to stop at once", file=sys.stderr, flush=True)

    def hold(self) -> None:
        """Have signals wait until someone looks at `asked`: a broken-off step is half done."""
        self.held = True
        if self.listening:
            self.listen()  # while it trains, Lightning handles SIGTERM, and then exits with 0

    def release(self) -> None:
        self.held = False


signals = Signals()  # a process has one handler for each
