"""Ask the parsers' process, from a worker."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .faults import Fault
from .parsers import LENGTH, MOST_ANSWER
from .places import Places
from .settings import Settings

LOADING_SECONDS = 5.0  # the process has them to be loaded, which it is some time after the workers


class ReadingClient:
    """Hands MLIR to be read, so many texts at once."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.parser_socket
        # The process itself stops what takes too long, and says so.
        longest = settings.parse_seconds + LOADING_SECONDS
        self._seconds = max(longest, settings.request_seconds - 1)
        rest = settings.request_seconds - longest
        wait = max(0.1, min(settings.parse_seconds, rest))
        self._places = Places(settings.parsers, 8 * settings.parsers, wait, "texts")

    async def read(self, request: dict[str, str]) -> dict[str, Any]:
        """Return what :func:`.reading.read` says.

        Raises
        ------
        Fault
            400 for a text that is no good, 429 when too many wait, 503 without the process.
        """
        async with self._places.one():
            result = await self._ask(json.dumps(request).encode())
        if "error" in result:
            raise Fault(400, str(result["error"]))
        found: dict[str, Any] = result["ok"]
        return found

    async def _ask(self, request: bytes) -> dict[str, Any]:
        writer = None
        try:
            async with asyncio.timeout(self._seconds):
                reader, writer = await asyncio.open_unix_connection(self._path)
                writer.write(LENGTH.pack(len(request)) + request)
                size = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
                if size > MOST_ANSWER:
                    raise Fault(400, "the MLIR's reader said too much")
                result: dict[str, Any] = json.loads(await reader.readexactly(size))
                return result
        except (asyncio.IncompleteReadError, ValueError):
            raise Fault(400, "the MLIR made its reader end in the middle of its answer") from None
        except TimeoutError:
            raise Fault(503, "nobody reads MLIR at the moment") from None
        except OSError as error:
            raise Fault(503, f"nobody reads MLIR at the moment ({error.strerror})") from None
        finally:
            if writer is not None:
                writer.close()
