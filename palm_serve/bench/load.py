"""Parameters of a load: target, arrival process, method, texts, access."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

TEXTS = (
    "yes please",
    "cancel that",
    "turn it off",
    "what time is it",
    "good morning to you",
    "play something by adele",
    "set a timer for ten minutes",
    "is it going to rain on friday",
    "add milk and eggs to my shopping list",
    "how far is the airport from the old town",
    "show me flights from boston to denver on monday",
    "remind me to call the dentist tomorrow at nine thirty",
    "book a table for four people at an italian place near the station",
    "which of the flights on thursday morning has a meal and gets in before noon",
    "i would like to move my appointment from tuesday afternoon to some time in the week after that",
    "what is the cheapest way to get from the airport to the university if i arrive late on a sunday evening with two bags",
    "the last time i ordered from you half of the parcel was missing and nobody answered my mail so before i pay for this one i want to know "
    "who checks what goes into the box and how i reach that person",
)
"""Default texts of 2 to 46 words, such as the turns of a dialogue."""


class Method(StrEnum):
    """Methods that a call can use."""

    PARSE = "parse"
    BATCH = "batch"
    OIP = "oip"


@dataclass(frozen=True, slots=True)
class Access:
    """TLS and token of the connections. Paths are of PEM files."""

    over_tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None
    plain_token: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """A load.

    With a `rate`, calls arrive as a Poisson process, independent of the answers (open loop). Without one, each of
    `concurrency` callers sends its next call after an answer (closed loop).
    """

    target: str
    rate: float | None = None
    """Calls per second, of all processes together."""
    concurrency: int = 64
    duration_s: float = 10.0
    warm_up_s: float = 1.0
    """Duration of the same load before the measurement."""
    deadline_s: float = 1.0
    method: Method = Method.PARSE
    batch: int = 32
    """Texts in one call of the method `batch`."""
    texts: tuple[str, ...] = TEXTS
    model: str = ""
    processes: int = 1
    seed: int = 0
    access: Access = Access()
    told_deadline_s: float | None = None
    """Deadline that the server learns. None: `deadline_s`."""

    def callers(self, process: int) -> int:
        """Return the number of callers of one process in a closed loop."""
        return (self.concurrency + process) // self.processes
