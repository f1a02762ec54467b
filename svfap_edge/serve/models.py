"""The engines that visitors share: each is loaded once, when it is first asked for."""

from __future__ import annotations

import threading

from svfap_edge.bundle import Bundle
from svfap_edge.errors import ConfigError
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.choice import available_engines, obstacle


class Models:
    """Loaded engines of one bundle by artifact and engine. Any thread may call anything.

    Attributes:
        bundle: The verified bundle.
        first: The engine that was loaded at the start, which also serves the sources.
    """

    def __init__(
        self,
        bundle: Bundle,
        artifact: str | None = None,
        engine: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Load the first engine; the arguments and errors are those of `Engine.load`."""
        self.bundle, self._threads = bundle, threads
        self._lock = threading.Lock()
        self._loaded: dict[tuple[str, str], Engine] = {}
        self.first = self._load(artifact, engine)

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Artifacts and engines that can be asked for on this machine, the first one first."""
        first = (self.first.spec.artifact, self.first.spec.engine)
        found = [
            (name, engine)
            for name, artifact in self.bundle.manifest.artifacts.items()
            for engine in available_engines(name.partition(".")[2])
            if obstacle(artifact, engine) is None
        ]
        return [first, *(pair for pair in found if pair != first)]

    def get(self, artifact: str, engine: str) -> Engine:
        """The engine of a choice. It is loaded when it is first asked for, which can take seconds.

        Raises:
            ConfigError: it is none of the `choices`.
            SvfapError: it cannot be loaded; see `Engine.load`.
        """
        if (artifact, engine) not in self.choices:
            have = ", ".join(f"{name} on {by}" for name, by in self.choices)
            raise ConfigError(f"No '{artifact:.40}' on '{engine:.40}' here. Choose one of: {have}.")
        with self._lock:
            found = self._loaded.get((artifact, engine))
            return self._load(artifact, engine) if found is None else found

    def _load(self, artifact: str | None, engine: str) -> Engine:
        loaded = Engine.load(self.bundle, artifact=artifact, engine=engine, threads=self._threads)
        # Slots are counted from the first time that an engine sees. It is 0 for all, so that two
        # engines that are shown the same frames predict the same clips.
        loaded.slots.number(0.0)
        self._loaded[loaded.spec.artifact, loaded.spec.engine] = loaded
        return loaded

    def close(self) -> None:
        """Free all engines."""
        with self._lock:
            for engine in self._loaded.values():
                engine.close()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
