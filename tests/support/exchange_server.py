"""The public REST of one exchange (Bitstamp's markets and bars) on this machine, for ccxt."""

from urllib.parse import parse_qs, urlsplit

from rest import Rest

MARKETS = [
    {
        "name": f"{base}/USD",
        "market_symbol": f"{base.lower()}usd",
        "base_currency": base,
        "base_decimals": 8,
        "counter_currency": "USD",
        "counter_decimals": 2,
        "minimum_order_value": "10",
        "trading": "Enabled",
        "description": f"{base} / U.S. dollar",
        "market_type": "SPOT",
    }
    for base in ("BTC", "ETH")
]


class Exchange:
    """An exchange whose price of a minute bar is the minute.

    bars: market -> the seconds at which its minute bars begin, open one included.
    forgets: bars before are not given.
    faults: statuses that are given first.
    """

    def __init__(self, bars, forgets=0, faults=()):
        self.bars, self.forgets, self.faults, self.asked = bars, forgets, list(faults), 0

    def __enter__(self):
        self._rest = Rest(self._answer)
        return self

    def __exit__(self, *_):
        self._rest.stop()

    @property
    def options(self):
        return {"rateLimit": 1, "urls": {"api": {"public": f"{self._rest.url}/api"}}}

    def _answer(self, path):
        url = urlsplit(path)
        status, body = 200, MARKETS
        if "/ohlc/" in url.path:
            self.asked += 1
            status = self.faults.pop(0) if self.faults else 200
            asked = {name: int(values[0]) for name, values in parse_qs(url.query).items()}
            found = [
                t
                for t in self.bars[url.path.strip("/").split("/")[-1]]
                if max(asked.get("start", 0), self.forgets) <= t <= asked.get("end", 1 << 40)
            ]
            body = {
                "data": {
                    "ohlc": [
                        dict(
                            zip(
                                ("timestamp", "open", "high", "low", "close", "volume"),
                                map(str, (t, *[t // 60] * 5)),
                                strict=True,
                            )
                        )
                        for t in found[: asked["limit"]]
                    ]
                }
            }
        return status, body
