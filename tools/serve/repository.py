"""The models that can be served: which there are, which are ready, loading and unloading them.

Names come from folders that were listed when the server started or was asked to look again; a
request's name is only ever compared with them.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ...errors import LowcError
from . import logs
from .batching import Batcher
from .faults import Fault, short
from .models import Model

READY, UNAVAILABLE = "READY", "UNAVAILABLE"


class Source(Protocol):
    """Where models come from."""

    def versions(self) -> dict[str, list[str]]:
        """Return the versions of each model, oldest first."""

    def load(self, name: str, version: str) -> Model:
        """Return a model; raise LowcError when its files are no good."""


@dataclass
class Served:
    """A model that is ready, and its queue."""

    model: Model
    batcher: Batcher


class Repository:
    """The models of one worker.

    Parameters
    ----------
    sources : iterable of Source
        The first that has a name wins.
    make_batcher : callable
        Gives a model its queue.
    is_explicit : bool
        Whether clients may load and unload.
    tell : callable
        Is told how many models are ready whenever one was loaded or unloaded.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        make_batcher: Callable[[Model], Batcher],
        *,
        is_explicit: bool = False,
        tell: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._tell = tell
        self.is_explicit = is_explicit
        self._sources = list(sources)
        self._make_batcher = make_batcher
        # Never changed, only replaced: whoever looks at it need not know of other threads.
        self._served: dict[str, dict[str, Served]] = {}
        self._changing, self._in_turn = threading.Lock(), asyncio.Lock()
        self._reasons: dict[tuple[str, str], str] = {}
        self._known: dict[str, list[str]] = {}

    def load_all(self) -> None:
        """Load every version of every model; one that fails is listed with its reason."""
        self._look()
        for name in self._known:
            self._load(name)

    @property
    def names(self) -> list[str]:
        """Names of the models that are ready, sorted."""
        return sorted(self._served)

    def newest(self) -> list[Model]:
        """Return the newest version of every model that is ready, by name."""
        return [next(reversed(one.values())).model for _, one in sorted(self._served.items())]

    def find(self, name: str, version: str = "") -> Served:
        """Return a ready model; an empty `version` is the newest.

        Raises
        ------
        Fault
            404, when there is none.
        """
        versions = self._served.get(name)
        if not versions:
            raise Fault(404, f"there is no model {short(name)}")
        if not version:
            return next(reversed(versions.values()))
        found = versions.get(version)
        if found is None:
            raise Fault(404, f"model '{name}' has no version {short(version)}")
        return found

    def versions(self, name: str) -> list[str]:
        """Return the ready versions of a model, oldest first."""
        return list(self._served.get(name, {}))

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a model can be asked.

        Raises
        ------
        Fault
            404, when it is not even known.
        """
        if name not in self._known or (version and version not in self._known[name]):
            raise Fault(404, f"there is no model {short(name)}")
        versions = self._served.get(name, {})
        return version in versions if version else bool(versions)

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Return what the protocol's repository index says."""
        found = []
        for name, versions in sorted(self._known.items()):
            for version in versions:
                is_ready = version in self._served.get(name, {})
                if is_ready or not only_ready:
                    state = READY if is_ready else UNAVAILABLE
                    reason = "" if is_ready else self._reasons.get((name, version), "unloaded")
                    found.append(
                        {"name": name, "version": version, "state": state, "reason": reason}
                    )
        return found

    async def load(self, name: str) -> None:
        """Read all versions of a model again.

        Raises
        ------
        Fault
            403 without ``--model-control explicit``, 404 for an unknown name, 400 for files that
            are no good; then what was ready stays so.
        """
        self._allow()
        async with self._in_turn:
            failed = await asyncio.to_thread(self._look_and_load, name)
        if failed:
            raise Fault(400, failed)

    async def unload(self, name: str) -> None:
        """Stop serving a model; what it is answering already is answered.

        Raises
        ------
        Fault
            403 without ``--model-control explicit``, 404 for a model that is not ready.
        """
        self._allow()
        async with self._in_turn:
            await asyncio.to_thread(self._unload, name)

    def _unload(self, name: str) -> None:
        with self._changing:
            versions = self._served.get(name)
            if versions is None:
                raise Fault(404, f"there is no model {short(name)}")
            for version in versions:
                self._reasons[name, version] = "unloaded"
            self._replace(name, {})

    def _replace(self, name: str, versions: dict[str, Served]) -> None:
        others = {one: served for one, served in self._served.items() if one != name}
        self._served = {**others, name: versions} if versions else others
        self._tell(len(self._served))

    def _look_and_load(self, name: str) -> str:
        # A request that ran out of time has left its turn, and not yet its thread.
        with self._changing:
            self._look()
            if name not in self._known:
                raise Fault(404, f"there is no model {short(name)}")
            return self._load(name)

    def _allow(self) -> None:
        if not self.is_explicit:
            raise Fault(403, "loading and unloading is off: start with --model-control explicit")

    def _look(self) -> None:
        known: dict[str, list[str]] = {}
        for source in self._sources:
            for name, versions in source.versions().items():
                known.setdefault(name, versions)
        self._known = known

    def _load(self, name: str) -> str:
        source = next(one for one in self._sources if name in one.versions())
        fresh: dict[str, Served] = {}
        failed = ""
        for version in self._known[name]:
            try:
                model = source.load(name, version)
            except (LowcError, OSError) as error:
                failed = self._reasons[name, version] = f"model '{name}' {version}: {error}"
                continue
            except Exception as error:  # One model that nobody foresaw takes no other with it.
                trace = traceback.format_exc(limit=-8)
                logs.log("failed", level="error", model=name, error=str(error), trace=trace)
                said = f"model '{name}' {version}: {type(error).__name__}: {error}"[:1000]
                failed = self._reasons[name, version] = said
                continue
            fresh[version] = Served(model, self._make_batcher(model))
        if (fresh and not failed) or name not in self._served:
            self._replace(name, fresh)
        return failed
