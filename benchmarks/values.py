"""Compare libraries that read numbers, ordinals, durations, dates, times and money in English and Chinese.

    python -m venv env && env/bin/pip install dateparser parsedatetime text2num number-parser cn2an jionlp \\
        pyduckling-native-phihos recognizers-text-suite "emoji<2"
    env/bin/python benchmarks/values.py --json values.json

Every library gets the marked value of each of the 200 sentences of benchmarks/data/values.tsv, which were written for this
project, at 10:00 on Monday, 30 November 2026. A library is right where its answer is the expected one. It is not asked for
kinds and languages that it does not claim. Libraries that are not installed are left out. `--hostile` gives each library
values that users may send to stop a server.
"""

import argparse
import contextlib
import json
import multiprocessing
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

ROWS = Path(__file__).parent / "data" / "values.tsv"
NOW = datetime(2026, 11, 30, 10)
HOSTILE = (
    "monday " * 10,
    "1 " * 50,
    "last next " * 10,
    "10:10 " * 16,
    "一" * 100,
    "明天后天" * 25,
    "in " * 33,
    "9" * 100,
)
LIMIT_S = 20.0
_CURRENCIES = {
    "$": "USD",
    "dollar": "USD",
    "euro": "EUR",
    "pound": "GBP",
    "british pound": "GBP",
    "united states dollar": "USD",
    "â£": "GBP",
    "£": "GBP",
    "japanese yen": "JPY",
    "swiss franc": "CHF",
    "元": "CNY",
    "chinese yuan": "CNY",
    "欧元": "EUR",
    "英镑": "GBP",
    "美元": "USD",
    "日元": "JPY",
}

Read = Callable[[str, str, str], Any]


class Row(NamedTuple):
    """One value: its language, kind, text and meaning."""

    language: str
    kind: str
    text: str
    resolved: str


def read_rows() -> list[Row]:
    """Read the values between the brackets of the sentences."""
    rows = []
    for line in ROWS.read_text(encoding="utf-8").splitlines()[1:]:
        language, kind, sentence, resolved = line.split("\t")
        rows.append(Row(language, kind, sentence[sentence.index("[") + 1 : sentence.index("]")], resolved))
    return rows


def normalize(kind: str, value: Any) -> str:
    """Return a value in the form in which answers are compared: numbers without zeros, durations as months and seconds."""
    text = str(value)
    if kind in ("number", "ordinal"):
        with contextlib.suppress(InvalidOperation):
            return f"{Decimal(text).normalize():f}"
    if kind == "money":
        amount, _, currency = text.partition(" ")
        with contextlib.suppress(InvalidOperation):
            return f"{Decimal(amount).normalize():f} {_CURRENCIES.get(currency.lower(), currency)}"
    if kind == "duration":
        match = re.fullmatch(
            r"P(?:([\d.]+)Y)?(?:([\d.]+)M)?(?:([\d.]+)W)?(?:([\d.]+)D)?(?:T(?:([\d.]+)H)?(?:([\d.]+)M)?(?:([\d.]+)S)?)?",
            text,
        )
        if match:
            years, months, weeks, days, hours, minutes, seconds = [float(part or 0) for part in match.groups()]
            return f"{12 * years + months:g} months {((weeks * 7 + days) * 24 + hours) * 3600 + minutes * 60 + seconds:g} s"
    return text[:10] if kind == "date" else text[:16]


def _iso_duration(amount: float, unit: str) -> str:
    letters = {"year": "Y", "month": "M", "week": "W", "day": "D", "hour": "H", "minute": "M", "second": "S"}
    return f"P{'T' if unit in ('hour', 'minute', 'second') else ''}{amount:g}{letters[unit]}"


def duckling() -> tuple[Read, str]:
    """Duckling, by pyduckling-native-phihos."""
    import duckling as library

    zones = library.load_time_zones("/usr/share/zoneinfo")
    time_now = library.parse_ref_time(zones, "UTC", int((NOW - datetime(1970, 1, 1)).total_seconds()))
    contexts = {}
    for language, locale in (("en", "EN_US"), ("zh", "ZH_CN")):
        default = library.default_locale_lang(library.parse_lang(language.upper()))
        contexts[language] = library.Context(time_now, library.parse_locale(locale, default))
    dimensions = {"date": "time", "money": "amount-of-money"}

    def read(language: str, kind: str, text: str) -> Any:
        asked = library.parse_dimensions([dimensions.get(kind, kind)])
        for answer in library.parse(text, contexts[language], asked, False):
            value = answer["value"]
            if (answer["start"], answer["end"]) != (0, len(text)) or "value" not in value:
                continue
            if kind == "money":
                return f"{value['value']} {value['unit']}"
            return _iso_duration(value["value"], value["unit"]) if kind == "duration" else value["value"]
        return None

    return read, "number ordinal duration date time money en zh"


def dateparser() -> tuple[Read, str]:
    """dateparser."""
    import dateparser as library

    settings = {"RELATIVE_BASE": NOW, "PREFER_DATES_FROM": "future"}

    def read(language: str, kind: str, text: str) -> Any:
        found = library.parse(text, languages=[language], settings=settings)
        return found and found.isoformat()

    return read, "date time en zh"


def parsedatetime() -> tuple[Read, str]:
    """parsedatetime."""
    import parsedatetime as library

    calendar = library.Calendar(version=library.VERSION_CONTEXT_STYLE)

    def read(language: str, kind: str, text: str) -> Any:
        found, context = calendar.parseDT(text, NOW)
        if not context.hasDateOrTime:
            return None
        return f"PT{(found - NOW).total_seconds():g}S" if kind == "duration" else found.isoformat()

    return read, "duration date time en"


def text2num() -> tuple[Read, str]:
    """text2num."""
    from text_to_num import alpha2digit
    from text_to_num import text2num as to_number

    def read(language: str, kind: str, text: str) -> Any:
        if kind == "number":
            return to_number(text, language)
        return re.sub(r"(?<=\d)(st|nd|rd|th)$", "", alpha2digit(text, language))

    return read, "number ordinal en"


def number_parser() -> tuple[Read, str]:
    """number-parser."""
    import number_parser as library

    def read(language: str, kind: str, text: str) -> Any:
        return library.parse_number(text, language) if kind == "number" else library.parse_ordinal(text, language)

    return read, "number ordinal en"


def cn2an() -> tuple[Read, str]:
    """cn2an."""
    import cn2an as library

    def read(language: str, kind: str, text: str) -> Any:
        return library.cn2an(text.removeprefix("第"), "smart")

    return read, "number ordinal zh"


def jionlp() -> tuple[Read, str]:
    """jionlp."""
    import jionlp as library

    def read(language: str, kind: str, text: str) -> Any:
        if kind == "money":
            found = library.parse_money(text)
            return f"{found['num']} {found['case']}"
        found = library.parse_time(text, time_base=NOW.timestamp())
        if kind == "duration":
            parts = dict(found["time"])
            seconds = timedelta(
                **{f"{unit}s": parts.pop(unit, 0) for unit in ("week", "day", "hour", "minute", "second")}
            )
            months = parts.pop("year", 0) * 12 + parts.pop("month", 0)
            return f"P{months:g}MT{seconds.total_seconds():g}S"
        return found["time"][0].replace(" ", "T")

    return read, "duration date time money zh"


def recognizers() -> tuple[Read, str]:
    """recognizers-text-suite."""
    from recognizers_date_time import recognize_datetime
    from recognizers_number import recognize_number, recognize_ordinal
    from recognizers_number_with_unit import recognize_currency

    def read(language: str, kind: str, text: str) -> Any:
        culture = {"en": "en-us", "zh": "zh-cn"}[language]
        if kind in ("number", "ordinal"):
            found = (recognize_number if kind == "number" else recognize_ordinal)(text, culture)
            return found[0].resolution["value"] if len(found) == 1 else None
        if kind == "money":
            found = recognize_currency(text, culture)
            return f"{found[0].resolution['value']} {found[0].resolution['unit']}" if len(found) == 1 else None
        found = recognize_datetime(text, culture, reference=NOW)
        if not found:
            return None
        values = found[0].resolution["values"]
        if kind == "duration":
            return f"PT{values[0]['value']}S"
        dates = [value["value"].replace(" ", "T") for value in values if "value" in value]
        if kind == "time":
            dates = [value if "-" in value else f"{NOW:%Y-%m-%d}T{value}" for value in dates]
        return next((value for value in dates if value >= f"{NOW:%Y-%m-%dT%H:%M}"), dates[-1] if dates else None)

    return read, "number ordinal duration date time money en zh"


LIBRARIES = (duckling, dateparser, parsedatetime, text2num, number_parser, cn2an, jionlp, recognizers)


def installed() -> Iterator[tuple[str, Read, set[str]]]:
    """Yield name, reader and claims of the libraries that are installed."""
    for make in LIBRARIES:
        try:
            read, claims = make()
        except ImportError as error:
            print(f"{make.__name__}: not installed ({error})")
        else:
            yield make.__name__, read, set(claims.split())


def measure(rows: list[Row]) -> list[dict[str, Any]]:
    """Return accuracy and median latency of each library for each language and kind."""
    results = []
    for name, read, claims in installed():
        cells: dict[tuple[str, str], list[bool]] = defaultdict(list)
        seconds = []
        for row in rows:
            if row.language not in claims or row.kind not in claims:
                continue
            began = time.perf_counter()
            try:
                answer = read(row.language, row.kind, row.text)
            except Exception:  # whatever a library raises is a wrong answer
                answer = None
            seconds.append(time.perf_counter() - began)
            is_right = answer is not None and normalize(row.kind, answer) == normalize(row.kind, row.resolved)
            cells[row.language, row.kind].append(is_right)
        for (language, kind), right in cells.items():
            results.append({"library": name, "language": language, "kind": kind, "right": sum(right), "of": len(right)})
        total = sum(map(sum, cells.values()))
        median_ms = 1000 * statistics.median(seconds)
        results.append({"library": name, "right": total, "of": len(seconds), "median_ms": round(median_ms, 3)})
    return results


def _try(make: Callable[[], tuple[Read, str]], language: str, kind: str, text: str, pipe: Any) -> None:
    read, _ = make()
    began = time.perf_counter()
    with contextlib.suppress(Exception):
        read(language, kind, text)
    pipe.send(time.perf_counter() - began)


def measure_hostile() -> list[dict[str, Any]]:
    """Return the longest time of each library for a hostile value, each in a process that is killed at the limit."""
    results = []
    for make in LIBRARIES:
        worst = (0.0, "")
        try:
            claims = set(make()[1].split())
        except ImportError:
            continue
        kind = next(kind for kind in ("time", "money", "number") if kind in claims)
        for text in HOSTILE:
            language = "en" if text.isascii() else "zh"
            if language not in claims:
                continue
            receiver, sender = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(
                target=_try, args=(make, language, kind, text, sender)
            )
            process.start()
            seconds = receiver.recv() if receiver.poll(LIMIT_S) else LIMIT_S
            process.kill()
            process.join()
            worst = max(worst, (seconds, text[:24]))
        results.append({"library": make.__name__, "worst_s": round(worst[0], 3), "value": worst[1]})
    return results


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--hostile", action="store_true")
    arguments = parser.parse_args()
    results = measure_hostile() if arguments.hostile else measure(read_rows())
    for result in results:
        print("  ".join(f"{key} {value}" for key, value in result.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
