"""Features once more as plain loops over lists, None where missing: the oracle of the laws.

Nothing of the product is used.
"""

import calendar
import math
import statistics
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import holidays

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(values, i):
    return values[i] if i >= 0 else None


def window(values, i, w):
    """What is there among the last w steps, or nothing when that is less than half."""
    there = [v for j in range(w) if (v := at(values, i - j)) is not None]
    return there if 2 * len(there) >= w else []


def between(ordered, q):
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def smooth(values, i, keep, w):
    """Mean with weights keep ** age of what is there among the last w steps."""
    weights = {j: keep**j for j in range(w) if at(values, i - j) is not None}
    total = math.fsum(weights.values())
    return (
        math.fsum(k * values[i - j] for j, k in weights.items()) / total
        if 2 * len(weights) >= w and total > 0
        else None
    )


def standing(value, there):
    if value is None:
        return None
    spread = statistics.stdev(there)
    return (value - statistics.fmean(there)) / spread if spread else 0.0


def differences(values):
    return [
        None if i == 0 or None in (values[i], values[i - 1]) else values[i] - values[i - 1]
        for i in range(len(values))
    ]


def wilder(values, i, w):
    """Wilder's own recursion, run over the last 4 (2 w - 1) steps and divided by the weight that
    is in it."""
    steps, top, weight, n = 4 * (2 * w - 1), 0.0, 0.0, 0
    for j in range(max(0, i - steps + 1), i + 1):
        top, weight = top * (w - 1) / w, weight * (w - 1) / w
        if values[j] is not None:
            top, weight, n = top + values[j] / w, weight + 1 / w, n + 1
    return top / weight if 2 * n >= steps else None


def slow_rsi(spec, values, i, _t):
    (w,), moves = spec["window_steps"], differences(values)
    up, down = (wilder([None if m is None else max(sign * m, 0.0) for m in moves], i, w) for sign in (1, -1))
    if up is None:
        return {f"close_rsi_{w}": None}
    return {f"close_rsi_{w}": 50.0 if up + down == 0 else 100 - 100 / (1 + up / down) if down else 100.0}


def slow_macd(spec, values, i, _t):
    fast, slow, signal = spec["fast_steps"], spec["slow_steps"], spec["signal_steps"]
    name = f"z_macd_{fast}_{slow}_{signal}"

    def line(j):
        pair = [smooth(values, j, 1 - 2 / (span + 1), 4 * span) for span in (fast, slow)]
        return None if None in pair else pair[0] - pair[1]

    start = max(0, i - 4 * signal + 1)
    lines = [None] * start + [line(j) for j in range(start, i + 1)]
    now, mean = lines[i], smooth(lines, i, 1 - 2 / (signal + 1), 4 * signal)
    return {
        f"{name}_line": now,
        f"{name}_signal": mean,
        f"{name}_histogram": None if None in (now, mean) else now - mean,
    }


def slow_bollinger(spec, values, i, _t):
    (w,), value = spec["window_steps"], values[i]
    there = window(values, i, w)
    if not there:
        return {f"close_bollinger_{w}_2_position": None, f"close_bollinger_{w}_2_width": None}
    middle, half = statistics.fmean(there), 2 * statistics.pstdev(there)
    where = None if value is None else (value - middle + half) / (2 * half) if half else 0.5
    return {f"close_bollinger_{w}_2_position": where, f"close_bollinger_{w}_2_width": 2 * half / middle}


def true_range(bars, i):
    high, low, before = bars["high"][i], bars["low"][i], at(bars["close"], i - 1)
    return None if None in (high, low, before) else max(high, before) - min(low, before)


def slow_atr(bars, i, w):
    return {f"ohlc_atr_{w}": wilder([true_range(bars, j) for j in range(i + 1)], i, w)}


def slow_atr_frac(bars, i, w):
    ((_, found),) = slow_atr(bars, i, w).items()
    return {f"ohlc_atr_frac_{w}": None if None in (found, bars["close"][i]) else found / bars["close"][i]}


def slow_stochastic(bars, i, w):
    def k(j):
        if (
            j < 0
            or bars["close"][j] is None
            or not (low := window(bars["low"], j, w))
            or not (high := window(bars["high"], j, w))
        ):
            return None
        return 100 * (bars["close"][j] - min(low)) / (max(high) - min(low)) if max(high) > min(low) else 50.0

    smoothed = window([k(j) for j in range(max(0, i - 2), i + 1)], min(i, 2), 3)
    return {
        f"ohlc_stochastic_{w}_k": k(i),
        f"ohlc_stochastic_{w}_d": statistics.fmean(smoothed) if smoothed else None,
    }


def slow_obv_change(bars, i, w):
    signed, traded = [], []
    for j, moved in enumerate(differences(bars["close"][: i + 1])):
        there = None not in (moved, bars["volume"][j])
        signed.append((moved > 0) * bars["volume"][j] - (moved < 0) * bars["volume"][j] if there else None)
        traded.append(bars["volume"][j] if there else None)
    there = window(signed, i, w)
    return {
        f"ohlc_obv_change_{w}": (
            (sum(there) / sum(window(traded, i, w)) if sum(window(traded, i, w)) else 0.0) if there else None
        )
    }


def slow_parkinson(bars, i, w):
    there = window(
        [
            None if None in (h, lo) else math.log(h / lo) ** 2
            for h, lo in zip(bars["high"], bars["low"], strict=True)
        ],
        i,
        w,
    )
    return {f"ohlc_parkinson_{w}": math.sqrt(statistics.fmean(there) / (4 * math.log(2))) if there else None}


def slow_rogers_satchell(bars, i, w):
    def of(o, h, lo, c):
        return (
            None
            if None in (o, h, lo, c)
            else math.log(h / c) * math.log(h / o) + math.log(lo / c) * math.log(lo / o)
        )

    there = window(
        [of(*bar) for bar in zip(bars["open"], bars["high"], bars["low"], bars["close"], strict=True)], i, w
    )
    return {f"ohlc_rogers_satchell_{w}": math.sqrt(max(0.0, statistics.fmean(there))) if there else None}


SLOW_BARS = {
    "atr": slow_atr,
    "atr_frac": slow_atr_frac,
    "stochastic": slow_stochastic,
    "obv_change": slow_obv_change,
    "parkinson": slow_parkinson,
    "rogers_satchell": slow_rogers_satchell,
}


def slow_row(spec, t, ahead, about):
    """What the row's time alone says; nothing for a kind that reads values."""
    if spec["kind"] == "time":
        return {"time_days": float((t - EPOCH).days), "time_day_frac": (t - EPOCH).seconds / 86400}
    if spec["kind"] == "fourier":
        name, phase = slow_phase(spec, t, about)
        return {
            f"fourier_{name}_{f.__name__}_{k}": f(2 * math.pi * k * phase)
            for k in range(1, spec["order"] + 1)
            for f in (math.sin, math.cos)
        }
    return slow_holiday(spec, t, ahead) if spec["kind"] == "holiday" else {}


def slow_phase(spec, t, about):
    days = (t - EPOCH) / timedelta(days=1)
    if spec.get("period") == "week":
        return "week", (t.weekday() + t.hour / 24) / 7
    if spec.get("period") == "year":
        return "year", (t - datetime(t.year, 1, 1, tzinfo=UTC)) / timedelta(
            days=365 + calendar.isleap(t.year)
        )
    if "period_days" in spec:
        return f"{spec['period_days']:g}_days", days / spec["period_days"] % 1
    n = (
        sum((EPOCH + timedelta(days=d)).weekday() < 5 for d in range(int(days)))
        if about.calendar == "weekdays"
        else int(days * 4)
    )
    return f"{spec['period_steps']:g}_steps", n / spec["period_steps"] % 1


@cache
def known_holidays(country, subdivision):
    return holidays.country_holidays(country, subdiv=subdivision, years=range(2022, 2028))


def slow_holiday(spec, t, ahead):
    known, zone, most = (
        known_holidays(spec["country"], spec["subdivision"]),
        ZoneInfo(spec["time_zone"]),
        spec["within_days"],
    )
    name = f"holiday_{spec['country']}_{spec['subdivision']}_{spec['time_zone']}"

    def days(sign):
        here: date = t.astimezone(zone).date()
        return next((k for k in range(most) if here + timedelta(days=sign * k) in known), most)

    found = {
        name: float(t.astimezone(zone).date() in known),
        f"{name}_until_{most}": days(1),
        f"{name}_since_{most}": days(-1),
    }
    return found | {
        f"{name}_ahead_{s}": float(a.astimezone(zone).date() in known) for s, a in enumerate(ahead, 1)
    }
