"""Who may ask what: keys, tokens, hosts, sites and rates, checked before a body is read.

Deny by default: a route that is not in SCOPE_OF needs `admin`. With `TIDEMILL_AUTH=off` (the
default) only this machine is answered.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import import_key
from limits import RateLimitItem, parse
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.forecaster.problems import ProblemError
from tasks.core.errors import AccessError, SettingsError
from tasks.edges.api_keys import ALL, Principal, find_principal, get_keys_path
from tasks.edges.settings import Settings

PUBLIC = {("GET", "/api/v1/health/live"), ("HEAD", "/api/v1/health/live")}
SCOPE_OF = {
    ("POST", "/api/v1/predict"): "predict",
    ("POST", "/api/v1/predict/batch"): "predict",
    ("POST", "/api/v1/observations"): "write",
    ("POST", "/api/v1/jobs"): "predict",
    ("POST", "/api/v1/forecast/{model}"): "predict",
    ("POST", "/api/v1/ml/automl"): "predict",
    ("GET", "/api/v1/jobs"): "predict",
    ("GET", "/api/v1/jobs/{id}"): "predict",
    ("GET", "/api/v1/jobs/{id}/result"): "predict",
    ("DELETE", "/api/v1/jobs/{id}"): "predict",
    ("GET", "/api/v1/health"): "read",
    ("GET", "/api/v1/predictions/{id}"): "predict",
    ("GET", "/api/v1/predictions/{id}/explain"): "predict",
    ("POST", "/api/v1/analyze/describe"): "read",
    ("POST", "/api/v1/analyze/correlation"): "read",
    ("POST", "/api/v1/analyze/distribution"): "read",
    ("POST", "/api/v1/graphql"): "read",
    ("GET", "/api/v1/health/ready"): "read",
    ("GET", "/api/v1/models"): "read",
    ("GET", "/api/v1/models/{version}"): "read",
    ("GET", "/api/v1/models/{version}/monitoring"): "read",
    ("POST", "/api/v1/models/deploy"): "operate",
    ("POST", "/api/v1/models/rollback"): "operate",
    ("POST", "/api/v1/rollout/pause"): "operate",
    ("POST", "/api/v1/rollout/resume"): "operate",
    ("POST", "/api/v1/rollout/abort"): "operate",
    ("GET", "/api/v1/metrics"): "read",
    ("GET", "/docs"): "read",
    ("GET", "/docs/assets/{name}"): "read",
    ("GET", "/redoc"): "read",
    ("GET", "/openapi.json"): "read",
    ("GET", "/"): "read",
}
# Those with a parameter, as the router matches them
_PATTERNS = [
    (method, compile_path(path)[0], scope) for (method, path), scope in SCOPE_OF.items() if "{" in path
]
# Of the process; without a dataset they are answered for the first one that the caller sees
OF_PROCESS = {"/api/v1/metrics", "/openapi.json", "/docs", "/redoc", "/"}
CHECK_S = 1.0  # a revoked key is refused after that
MAX_REMEMBERED = 10_000  # keys and tokens that were checked
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_KEY_TYPES: dict[str, Literal["RSA", "EC", "OKP"]] = {
    "RS256": "RSA",
    "PS256": "RSA",
    "ES256": "EC",
    "EdDSA": "OKP",
}
_log = logging.getLogger("tidemill.forecaster")
ANONYMOUS = Principal("anonymous", "operators", frozenset({"admin"}), frozenset({ALL}))


def find_scope(method: str, path: str) -> str:
    """The scope that a request needs."""
    if (exact := SCOPE_OF.get((method, path))) is not None:
        return exact
    matches = (scope for of, pattern, scope in _PATTERNS if of == method and pattern.match(path))
    return next(matches, "admin")


class _Remembered(NamedTuple):
    principal: Principal
    until_s: float  # on the monotonic clock


class MovingWindow:
    """Counts each caller's requests in this process, as MovingWindowRateLimiter does.

    That one's storage in memory starts a thread for nearly every request.
    """

    def __init__(self, rate: RateLimitItem) -> None:
        self._amount, self._window_s = rate.amount, rate.get_expiry()
        self._hits: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()  # the idle first

    def hit(self, _: RateLimitItem, *caller: str) -> bool:
        """Whether a request of *caller* is within its rate; then it counts."""
        now = time.monotonic()
        hits = self._hits.setdefault(caller, deque())
        self._hits.move_to_end(caller)
        idle = next(iter(self._hits.values()))
        for times in (hits, idle):
            while times and times[0] <= now - self._window_s:
                times.popleft()
        if not idle and idle is not hits:
            self._hits.popitem(last=False)
        if len(hits) >= self._amount:
            return False
        hits.append(now)
        return True


class AccessGate:
    """Answers a request that is not allowed, and passes the others on with their principal.

    list_datasets: those that are served; of another tenant's one nothing is said but 404.
    apps: what answers for a dataset instead of *app*.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        list_datasets: Callable[[], Sequence[str]],
        apps: Mapping[str, ASGIApp],
    ) -> None:
        self.app, self._settings, self._list_datasets, self._apps = app, settings, list_datasets, apps
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._keys_stamp: tuple[int, ...] = ()
        self._rate: RateLimitItem = parse(settings.rate_limit)
        self._limiter = (
            MovingWindow(self._rate)
            if settings.rate_limit_storage == "memory://"
            else MovingWindowRateLimiter(storage_from_string(settings.rate_limit_storage))
        )
        self._tokens = _build_token_reader(settings)
        if settings.auth == "off":
            _log.warning("TIDEMILL_AUTH is off: every program on this machine may ask, no other machine")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            principal, dataset = self._check(scope)
        except ProblemError as error:
            await error.response()(scope, receive, send)
            return
        scope.setdefault("state", {}).update(principal=principal, dataset=dataset)
        await self._apps.get(dataset, self.app)(scope, receive, send)

    def _check(self, scope: Scope) -> tuple[Principal, str]:
        """Who asks, and the dataset that is asked about; empty where none is loaded."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_site(scope, headers)
        if (scope["method"], scope["path"]) in PUBLIC:
            return ANONYMOUS, ""
        principal = self._find_principal(scope, headers)
        needed = find_scope(scope["method"].replace("HEAD", "GET"), scope["path"])
        if not principal.may(needed):
            raise ProblemError(
                403,
                "key",
                f"{principal.name!r} has the scopes {', '.join(sorted(principal.scopes))}",
                f"{scope['method']} {scope['path'][:100]} needs `{needed}`.",
                "Use another key, or ask the operator for one.",
            )
        dataset = self._find_dataset(scope, principal)
        if principal is not ANONYMOUS and not self._limiter.hit(self._rate, principal.tenant, principal.name):
            raise ProblemError(
                429,
                "requests",
                f"{principal.name!r} has sent more than {self._settings.rate_limit}",
                "Each caller has a rate (TIDEMILL_RATE_LIMIT).",
                "Wait, then retry.",
                {"retry-after": "1"},
            )
        return principal, dataset

    def _find_dataset(self, scope: Scope, principal: Principal) -> str:
        """The served dataset in the query, else the only one that *principal* sees."""
        served = self._list_datasets()
        if not served:  # nothing is loaded, and the route says why
            return ""
        seen = [name for name in served if principal.sees(name)]
        asked = set(parse_qs(scope["query_string"].decode("latin-1")).get("dataset", ()))
        if not seen or not asked <= set(seen):
            raise ProblemError(
                404,
                "path",
                "not found",
                "A key sees the datasets that it was made for.",
                "Check the address.",
            )
        if len(asked or seen) == 1:
            return next(iter(asked or seen))
        if not asked and (scope["path"] in OF_PROCESS or scope["path"].startswith("/docs/")):
            return seen[0]
        raise ProblemError(
            422,
            "dataset",
            "two of them are named" if asked else "missing",
            f"This service has the datasets {', '.join(seen)}, and a request is for one of them.",
            f"Add it to the address: ?dataset={quote(seen[0])}.",
        )

    def _check_site(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """A page of another site must not have a person's browser ask for it."""
        host = _get_host(headers.get("host", ""))
        allowed = {*self._settings.hosts.lower().split(","), self._settings.host, *_LOOPBACK}
        if (self._settings.hosts or self._settings.auth == "off") and host not in allowed:
            raise ProblemError(
                421,
                "Host",
                f"{host[:100]!r} is no name of this service",
                "The host of a request is one of TIDEMILL_HOSTS or this machine.",
                "Correct the address, or add the name to TIDEMILL_HOSTS.",
            )
        origin = headers.get("origin")
        if origin is not None and _get_host(urlsplit(origin).netloc) != host:
            raise ProblemError(
                403,
                "Origin",
                f"{origin[:100]!r} is another site",
                "Pages of other sites may not ask.",
                "Ask from a program, or from a page of the same host.",
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise ProblemError(
                415,
                "Content-Type",
                f"{kind[:100]!r}" if kind else "missing",
                "A body is JSON.",
                "Send the header Content-Type: application/json.",
            )

    def _find_principal(self, scope: Scope, headers: Mapping[str, str]) -> Principal:
        if self._settings.auth == "off":
            client = scope.get("client")
            if client is not None and client[0] not in _LOOPBACK:
                raise ProblemError(
                    401,
                    "service",
                    "TIDEMILL_AUTH is off",
                    "Then only programs on its own machine are answered.",
                    "Set TIDEMILL_AUTH=on and make a key with `tidemill keys create`.",
                )
            return ANONYMOUS
        key, token = headers.get("x-api-key"), headers.get("authorization", "")
        if key is not None:
            found = self._remember(key, find_principal)
        elif token.lower().startswith("bearer ") and self._tokens is not None:
            found = self._remember(token[7:].strip(), self._tokens)
        else:
            found = None
        if found is None:
            fact = "missing" if key is None and not token else "not valid"
            raise ProblemError(
                401,
                "key",
                fact,
                "Each request has the header X-API-Key, or Authorization: Bearer with a token.",
                "`tidemill keys create` makes a key.",
                {"www-authenticate": "Bearer"},
            )
        return found

    def _remember(self, secret: str, find: Callable[[str], Principal | None]) -> Principal | None:
        """What *find* says of *secret*; for CHECK_S it is not asked again."""
        stamp, now = _read_stamp(get_keys_path()), time.monotonic()
        if stamp != self._keys_stamp:
            self._keys_stamp = stamp
            self._remembered.clear()
        if (known := self._remembered.get(secret)) is not None and known.until_s > now:
            return known.principal
        try:
            principal = find(secret)
        except AccessError as error:
            raise ProblemError(
                503, "keys", str(error), "No request is answered unchecked.", "Report it to the operator."
            ) from error
        self._remembered.pop(secret, None)
        if principal is not None:
            self._remembered[secret] = _Remembered(principal, now + CHECK_S)
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return principal


def _build_token_reader(settings: Settings) -> Callable[[str], Principal | None] | None:
    """Reads a JWT of the one algorithm, issuer and audience that are set; None when none is.

    Claims: sub, tenant, scope and datasets (names, separated by spaces), exp; all are needed.
    """
    if settings.jwt_key is None:
        return None
    if not settings.jwt_issuer or not settings.jwt_audience:
        raise SettingsError(
            "TIDEMILL_JWT_KEY is set without TIDEMILL_JWT_ISSUER and TIDEMILL_JWT_AUDIENCE. A token of"
            " another issuer, or for another service, would be accepted: set both."
        )
    try:
        key = import_key(settings.jwt_key.read_text(), _KEY_TYPES[settings.jwt_algorithm])
    except (OSError, ValueError, JoseError) as error:
        raise SettingsError(
            f"TIDEMILL_JWT_KEY is {settings.jwt_key}, which has no public key ({error}). Give the path of a"
            " key as PEM or JWK."
        ) from error
    claims = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": settings.jwt_issuer},
        aud={"essential": True, "value": settings.jwt_audience},
        exp={"essential": True},
        sub={"essential": True},
    )

    def read_token(text: str) -> Principal | None:
        try:
            token = jwt.decode(text, key, algorithms=[settings.jwt_algorithm])
            claims.validate(token.claims)
        except (JoseError, ValueError):
            return None
        content = token.claims
        return Principal(
            str(content["sub"]),
            str(content.get("tenant", "")),
            frozenset(str(content.get("scope", "")).split()),
            frozenset(str(content.get("datasets", "")).split()),
        )

    return read_token


def _get_host(text: str) -> str:
    """The name in a Host header, without the port."""
    return (urlsplit(f"//{text}").hostname or "").lower() if "@" not in text else ""


def _read_stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)
