"""Libraries that read values of any wording: Duckling for English, jionlp and Duckling for Chinese.

`benchmarks/values.py` compares them with others. They run in a process of their own (`resolver_process`): Duckling needs minutes
for some texts of 70 characters, and no thread of a server can be stopped.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import TZPATH, ZoneInfo

from palm_serve.values.question import Question, Reading

_CHINESE = re.compile("[\u4e00-\u9fff]")
_DIMENSIONS = {"date": "time", "money": "amount-of-money"}
_CURRENCIES = {"$": "USD", "£": "GBP", "€": "EUR", "¥": "JPY", "Â£": "GBP"}
_CHINESE_CURRENCIES = {
    "元": "CNY",
    "欧元": "EUR",
    "英镑": "GBP",
    "美元": "USD",
    "日元": "JPY",
    "港元": "HKD",
    "台币": "TWD",
    "韩元": "KRW",
    "法郎": "CHF",
    "加元": "CAD",
    "澳元": "AUD",
    "卢布": "RUB",
    "泰铢": "THB",
}
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_LETTERS = {"year": "Y", "month": "M", "week": "W", "day": "D", "hour": "H", "minute": "M", "second": "S"}
_DATE_FORMS = {"year": "%Y", "quarter": "%Y-%m", "month": "%Y-%m", "week": "%G-W%V"}
_CLOCK_GRAINS = ("hour", "minute", "second")
_HALF_A_DAY = timedelta(hours=12)


class Libraries:
    """The libraries, loaded. They are slow to load: about 3 seconds."""

    def __init__(self) -> None:
        import duckling
        import jionlp

        self._duckling = duckling
        self._zones = duckling.load_time_zones(_zone_folder())
        self._locales = {}
        for language, locale in (("EN", "EN_US"), ("ZH", "ZH_CN")):
            default = duckling.default_locale_lang(duckling.parse_lang(language))
            self._locales[language] = duckling.parse_locale(locale, default)
        self._jionlp = jionlp

    def read(self, question: Question) -> Reading | None:
        """Return the meaning of a value; None if no library knows it.

        Raises:
            Exception: whatever a library raises.
        """
        is_chinese = _CHINESE.search(question.text) is not None
        if is_chinese and question.resolver not in ("number", "ordinal"):
            return self._read_chinese(question)
        answer = self._ask_duckling(question, "ZH" if is_chinese else "EN")
        return None if answer is None else _READERS[question.resolver](answer)

    def _ask_duckling(self, question: Question, language: str) -> dict[str, Any] | None:
        """Return the value of the answer to the whole text."""
        now = self._duckling.parse_ref_time(self._zones, question.zone, int(question.time.timestamp()))
        context = self._duckling.Context(now, self._locales[language])
        dimensions = self._duckling.parse_dimensions([_DIMENSIONS.get(question.resolver, question.resolver)])
        for answer in self._duckling.parse(question.text, context, dimensions, False):
            is_whole = (answer["start"], answer["end"]) == (0, len(question.text))
            if is_whole and "value" in answer["value"]:
                meaning: dict[str, Any] = answer["value"]
                if question.resolver != "time" or meaning["grain"] in _CLOCK_GRAINS:
                    return meaning
        return None

    def _read_chinese(self, question: Question) -> Reading | None:
        if question.resolver == "money":
            money = self._jionlp.parse_money(question.text)
            currency = _CHINESE_CURRENCIES.get(money["case"])
            return None if currency is None else _money(float(money["num"]), currency)
        zone = ZoneInfo(question.zone)
        now = question.time.astimezone(zone)
        base = {name: getattr(now, name) for name in ("year", "month", "day", "hour", "minute", "second")}
        answer = self._jionlp.parse_time(question.text, time_base=base)
        if question.resolver == "duration":
            return _chinese_duration(answer["time"]) if answer["type"] == "time_delta" else None
        if answer["type"] != "time_point":
            return None
        start, end = (datetime.fromisoformat(text).replace(tzinfo=zone) for text in answer["time"])
        if question.resolver == "date":
            return _reading(f"{start:%Y-%m-%d}", {"date": f"{start:%Y-%m-%d}"})
        if end - start > _HALF_A_DAY:
            return None
        return _reading(start.isoformat(), {"time": start.isoformat()})


def _zone_folder() -> str:
    """Return the folder of the time zone database: that of the machine, else that of the package `tzdata`."""
    for folder in TZPATH:
        if (Path(folder) / "Europe").is_dir():
            return folder
    import tzdata

    return str(Path(tzdata.__file__).parent / "zoneinfo")


def _reading(canonical: str, content: dict[str, Any]) -> Reading:
    return Reading(canonical, json.dumps(content, ensure_ascii=False))


def _read_number(answer: dict[str, Any]) -> Reading:
    return _reading(_plain_number(answer["value"]), {"value": answer["value"]})


def _read_money(answer: dict[str, Any]) -> Reading | None:
    currency = _CURRENCIES.get(answer["unit"], answer["unit"])
    return _money(answer["value"], currency) if re.fullmatch("[A-Z]{3}", currency) else None


def _money(amount: float, currency: str) -> Reading:
    amount = int(amount) if amount == int(amount) else amount
    return _reading(f"{_plain_number(amount)} {currency}", {"amount": amount, "currency": currency})


def _read_duration(answer: dict[str, Any]) -> Reading | None:
    if answer["unit"] not in _LETTERS:
        return None
    return _duration({answer["unit"]: answer["value"]})


def _chinese_duration(content: dict[str, Any]) -> Reading | None:
    """Return a duration. Fractions of hours and shorter units become smaller units; other fractions are not read."""
    amounts = {name: value for name, value in content.items() if value}
    if not amounts or not set(amounts) <= set(_LETTERS):
        return None
    return _duration(amounts)


def _duration(amounts: dict[str, float]) -> Reading | None:
    """Return a duration in ISO 8601, from amounts by unit."""
    whole_units = {unit: amount for unit, amount in amounts.items() if amount == int(amount)}
    seconds = sum(amount * _SECONDS[unit] for unit, amount in amounts.items() if unit in _SECONDS)
    calendar = {unit: int(amount) for unit, amount in whole_units.items() if unit in ("year", "month")}
    if len(calendar) < len([unit for unit in amounts if unit in ("year", "month")]) or seconds != int(seconds):
        return None
    units = dict(whole_units) if whole_units == amounts else {**calendar, **_split_seconds(int(seconds))}
    days = "".join(f"{int(units[unit])}{_LETTERS[unit]}" for unit in ("year", "month", "week", "day") if unit in units)
    clock = "".join(f"{int(units[unit])}{_LETTERS[unit]}" for unit in ("hour", "minute", "second") if unit in units)
    iso = f"P{days}{'T' if clock else ''}{clock}"
    content: dict[str, Any] = {"duration": iso}
    if not calendar:
        content["seconds"] = int(seconds)
    return _reading(iso, content)


def _split_seconds(seconds: int) -> dict[str, int]:
    """Return seconds as days, hours, minutes and seconds, without zeros."""
    units = {}
    for unit in ("day", "hour", "minute", "second"):
        amount, seconds = divmod(seconds, _SECONDS[unit])
        if amount:
            units[unit] = amount
    return units


def _read_date(answer: dict[str, Any]) -> Reading:
    moment = datetime.fromisoformat(answer["value"])
    date = moment.strftime(_DATE_FORMS.get(answer["grain"], "%Y-%m-%d"))
    return _reading(date, {"date": date, "grain": answer["grain"]})


def _read_time(answer: dict[str, Any]) -> Reading:
    moment = datetime.fromisoformat(answer["value"]).isoformat()
    return _reading(moment, {"time": moment, "grain": answer["grain"]})


def _plain_number(value: float) -> str:
    """Return a number without an exponent."""
    return f"{value:f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


_READERS: dict[str, Callable[[dict[str, Any]], Reading | None]] = {
    "number": _read_number,
    "ordinal": _read_number,
    "money": _read_money,
    "duration": _read_duration,
    "date": _read_date,
    "time": _read_time,
}
