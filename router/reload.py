"""Takes a changed config up while the gateway runs; one that is wrong is reported, and the last good one stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from foreshore.config import Config, load_config
from foreshore.errors import ForeshoreError
from foreshore.router.router import Router
from foreshore.telemetry import logger

__all__ = ["Watcher"]

EVERY_S = 1.0
Stamp = tuple[int, int, int] | None


class Watcher:
    """Looks at `path` every `every` seconds, and whenever `check` is called (SIGHUP); at the estimator too, for that is
    trained anew while the config stays."""

    def __init__(
        self, router: Router, path: Path, *, every: float = EVERY_S, prepare: Callable[[Config], object] | None = None
    ) -> None:
        """`prepare` makes what a config needs before it is taken up, in a thread; its `ForeshoreError` refuses it."""
        self._router, self._path, self._every, self._prepare = router, path, every, prepare
        self._estimator = router.loaded.config.quality.file  # as the newest file has it, taken up or refused
        self._seen = self._stamps()
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._every)
            await self.check()

    async def check(self, *, force: bool = False) -> None:
        """Reload if the file changed, or anyway."""
        async with self._lock:
            stamps = await asyncio.to_thread(self._stamps)
            if stamps == self._seen and not force:
                return
            self._seen = stamps
            try:
                config = await asyncio.to_thread(load_config, self._path)
                self._estimator = config.quality.file
                self._seen = (stamps[0], _stamp(self._estimator))
                if self._prepare is not None:
                    await asyncio.to_thread(self._prepare, config)
                await self._router.reload(self._here(config))
            except ForeshoreError as error:
                self._router.refuse_config(error)
                logger.error("config refused, the last good one stays: %s", error.message)
            else:
                logger.warning("config reloaded from %s", self._path)

    def _stamps(self) -> tuple[Stamp, Stamp]:
        return _stamp(self._path), _stamp(self._estimator)

    def _here(self, config: Config) -> Config:
        """`config` on the address we already listen on; it changes at a restart only."""
        return config.model_copy(update={"listen": self._router.loaded.config.listen})


def _stamp(path: Path | None) -> Stamp:
    """What changes when a file is written or replaced; None while there is none."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
