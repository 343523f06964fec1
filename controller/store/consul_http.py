"""Requests to Consul: every one with a deadline, the token and the datacenter, and every failure as an error of ours.

The requests go through py-consul's HTTP object and not through its methods: its transaction sends no token, and its
token gives way to CONSUL_HTTP_TOKEN, whereas here what was set is what counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import consul.aio

from controller.errors import StoreDenied, StoreUnavailable, TooManyOperations
from controller.store.consul_access import WAY_OUT_OF_DENIAL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.store.consul_access import ConsulAccess

_ANSWERS: Final = (200, 404, 409)
_DENIED: Final = (401, 403)
_TOO_LARGE: Final = 413
#: No connection is worth waiting for another's end: watches hold theirs for minutes.
_CONNECTION_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """Consul's answer; `index` is X-Consul-Index, 0 where the server names none."""

    status: int
    index: int
    body: str


class ConsulClient:
    """Connections to one Consul, opened when they are needed and kept; for one event loop."""

    def __init__(self, access: ConsulAccess, *, timeout_seconds: float) -> None:
        self._access = access
        self._timeout_seconds = timeout_seconds
        self._consul: Any = None
        self._closed = False
        # Compressing an answer takes the server longer than sending it: what is large is stored compressed.
        self._headers = {"Accept-Encoding": "identity"}
        if access.token is not None:
            self._headers["X-Consul-Token"] = access.token
        self._datacenter = [] if access.datacenter is None else [("dc", access.datacenter)]

    async def get(self, path: str, params: list[tuple[str, str]], *, wait_seconds: float = 0.0) -> Answer:
        """Read; `wait_seconds` is how much longer than usual the answer may take."""
        answer = await self._answer(
            lambda http, common: http.get(path=path, params=params + self._datacenter, **common), wait_seconds
        )
        if not answer.index:
            # Anybody's 404 would otherwise pass for an empty store.
            raise StoreUnavailable(f"{self._access.address}{path} answers without an index, so it is not Consul")
        return answer

    async def put(self, path: str, params: list[tuple[str, str]], body: str) -> Answer:
        """Write, at most once: without an answer it is `StoreUnavailable`, and open whether it was done."""
        return await self._answer(
            lambda http, common: http.put(path=path, params=params + self._datacenter, data=body, **common), 0.0
        )

    async def close(self) -> None:
        """Close all connections; requests that wait for an answer fail."""
        self._closed = True
        if self._consul is not None:
            await self._consul.close()

    async def _answer(self, send: Callable[[Any, dict[str, Any]], Awaitable[Answer]], wait_seconds: float) -> Answer:
        if self._closed:
            raise StoreUnavailable("the store was closed; open another one")
        limit_seconds = self._timeout_seconds + wait_seconds
        common = {"callback": _answer_of, "headers": self._headers, "connections_timeout": limit_seconds}
        try:
            answer = await send(self._http(), common)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"Consul at {self._access.address} gave no answer within {limit_seconds} s"
            ) from error
        except (aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
            raise StoreUnavailable(f"Consul at {self._access.address}: {error or type(error).__name__}") from error
        if answer.status in _ANSWERS:
            return answer
        text = f"{self._access.address} answers {answer.status}: {answer.body.strip()[:200]}"
        if answer.status in _DENIED:
            raise StoreDenied(f"{text}; {WAY_OUT_OF_DENIAL}")
        if answer.status == _TOO_LARGE:
            raise TooManyOperations(f"{text}; split the transaction")
        raise StoreUnavailable(text)

    def _http(self) -> Any:  # noqa: ANN401  py-consul has no types
        if self._consul is None:
            self._consul = self._connected()
        return self._consul.http

    def _connected(self) -> Any:  # noqa: ANN401  as above
        access = self._access
        try:
            connected = consul.aio.Consul(
                host=access.host,
                port=access.port,
                scheme=access.scheme,
                # Loading the system's authorities takes 20 ms, which every command without TLS would pay for nothing.
                verify=access.scheme == "https" and (True if access.ca_file is None else str(access.ca_file)),
                cert=None if access.cert_file is None else (str(access.cert_file), str(access.key_file)),
                connections_limit=_CONNECTION_LIMIT,
            )
        except OSError as error:
            files = ", ".join(str(path) for path in (access.ca_file, access.cert_file, access.key_file) if path)
            raise StoreUnavailable(f"one of Consul's TLS files {files} cannot be used: {error}") from error
        # aiohttp sends a PUT again when a kept connection breaks under it. A transaction that was applied would then
        # meet its own writes and be reported as a conflict with somebody else.
        connected.http._session._retry_connection = False  # noqa: SLF001  there is no public switch
        return connected


def _answer_of(response: Any) -> Answer:  # noqa: ANN401  py-consul has no types
    index = response.headers.get("X-Consul-Index", "0")
    return Answer(int(response.code), int(index) if index.isdecimal() else 0, str(response.body))
