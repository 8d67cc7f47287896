"""Rank tiles by a server's cost model (``lowc serve``), or by a local one where it does not answer.

A compilation must not fail, nor wait for long, because a server is away: each of three
tries has its time, then the local ranker is used for all that follows, and its name says why.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import UserError
from .choice import Prediction, Ranker
from .problem import Problem
from .tilings import Tiling

SCHEMES = ("http://", "https://")
PATH = "/v1/predict-tiles"
TOKEN = "LOWC_SERVE_TOKEN"
SECONDS = 5.0  # of one try
TRIES = 3
PAUSE = 0.2  # before the second try, twice as long before the third
MOST_BYTES = 16 << 20
# Worth another try: too busy, not ready, or too late.
_PASSING = (429, 503, 504)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a token is for the server that the user named."""

    def redirect_request(self, *_: Any) -> None:
        """Return none."""


_OPENER = urllib.request.build_opener(_NoRedirects)
_PIECE = 1 << 16


def headers_for(url: str) -> dict[str, str]:
    """Return the headers of a request to `url`, which is checked."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_url = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        has_more = "@" in parts.netloc or parts.path not in ("", "/") or "?" in url or "#" in url
    except ValueError:
        is_url = has_more = False
    if not is_url or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError(
            f"{url!r} is no address of a server", where="--cost-model", hint="http://host:8000"
        )
    if has_more:
        # Not repeated: it may have a password.
        raise UserError(
            "the address of a server has no user, path or query", where="--cost-model",
            hint=f"http://host:8000; a token is given by {TOKEN}",
        )  # fmt: skip
    headers = {"content-type": "application/json"}
    if token := os.environ.get(TOKEN, "").strip():
        if not token.isascii() or not token.isprintable():
            raise UserError("the token has characters that none has", where=TOKEN)
        headers["authorization"] = f"Bearer {token}"
    return headers


class NoAnswer(Exception):
    """The server did not give a prediction that can be used; says why."""


class _Refused(Exception):
    """The server answered with another status than 200."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Remote:
    """The model of the server at `url`.

    Parameters
    ----------
    url : str
        ``http://host:port`` or ``https://…``; the environment variable LOWC_SERVE_TOKEN has the
        token that it wants.
    fallback : callable
        Makes the local ranker.

    Raises
    ------
    UserError
        When `url` or the token cannot be one.
    """

    def __init__(
        self, url: str, fallback: Callable[[], Ranker], *, seconds: float = SECONDS
    ) -> None:
        self.url = url.rstrip("/")
        self._headers = headers_for(self.url)
        self._fallback, self._seconds = fallback, seconds
        self._model = ""
        self._local: Ranker | None = None
        self._why = ""

    @property
    def name(self) -> str:
        """Which model it is, for reports; and why it is a local one."""
        if self._local is not None:
            return f"{self._local.name} ({self.url} did not answer: {self._why})"
        return f"{self._model or 'cost model'} at {self.url}"

    @property
    def warning(self) -> str:
        """What the local ranker warns of, if that is the one."""
        return str(getattr(self._local, "warning", ""))

    def predict(self, problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
        """Return the server's prediction, or the local ranker's."""
        if self._local is None:
            try:
                return self._ask(problem, tilings)
            except NoAnswer as error:
                self._local, self._why = self._fallback(), str(error)
        return self._local.predict(problem, tilings)

    def _ask(self, problem: Problem, tilings: Sequence[Tiling]) -> Prediction:
        body = json.dumps({"problems": [problem.to_dict()]}).encode()
        for number in range(TRIES):
            try:
                return self._read(self._post(body), tilings)
            except _Refused as refused:
                why = f"status {refused.status}, {refused}"
                if refused.status not in _PASSING:
                    raise NoAnswer(why) from None
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                why = str(getattr(reason, "strerror", None) or reason or type(error).__name__)
            if number + 1 < TRIES:
                time.sleep(PAUSE * 2**number)
        raise NoAnswer(f"{why}, {TRIES} times")

    def _post(self, body: bytes) -> bytes:
        """Return the answer, in time or not at all.

        A socket's time-out is of one read: who drips, headers or a body, would be read for ever.
        So it is read beside, and whoever is too late is not waited for.
        """
        answers: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        until = time.monotonic() + self._seconds

        def ask() -> None:
            try:
                answers.put(self._exchange(body, until))
            except Exception as error:
                answers.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            found = answers.get(timeout=self._seconds)
        except queue.Empty:
            raise TimeoutError("timed out") from None
        if isinstance(found, Exception):
            raise found
        return found

    def _exchange(self, body: bytes, until: float) -> bytes:
        request = urllib.request.Request(self.url + PATH, body, self._headers)
        found = bytearray()
        try:
            response = _OPENER.open(request, timeout=self._seconds)
        except urllib.error.HTTPError as error:
            with error:
                raise _Refused(error.code, _said(error)) from None
        with response:
            while part := response.read1(_PIECE):
                found += part
                if len(found) > MOST_BYTES:
                    raise NoAnswer("its answer is too long")
                if time.monotonic() > until:
                    raise TimeoutError("timed out")
        return bytes(found)

    def _read(self, body: bytes, tilings: Sequence[Tiling]) -> Prediction:
        try:
            answer = json.loads(body)
            (found,) = answer["predictions"]
            pairs = zip(found["seconds"], found["spread"], strict=True)
            said = dict(zip(found["tiles"], pairs, strict=True))
            both = np.array([said[one.text] for one in tilings], np.float64).reshape(-1, 2)
            self._model = f"cost model {str(answer['model'])[:80]}"
        except KeyError as error:
            raise NoAnswer(f"it knows no tile {error}: it is of another lowc") from None
        except (ValueError, TypeError, RecursionError):
            raise NoAnswer("its answer is no prediction") from None
        if not (np.isfinite(both).all() and (both[:, 0] > 0).all()):
            raise NoAnswer("its answer has times that are none")
        return Prediction(both[:, 0], np.maximum(both[:, 1], 0))


def _said(error: Any) -> str:
    try:
        return str(json.loads(error.read(4096))["error"])[:200]
    except (ValueError, KeyError, TypeError, OSError):
        return "without a reason"
