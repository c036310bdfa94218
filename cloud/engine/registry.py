"""Which engines there are; each is imported when it is asked for.

What does not live here: anything of one engine. A new engine is a row here, its package, and its test.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud.config import ServerConfig
    from cloud.engine.base import Engine

LOADERS: dict[str, str] = {
    "torch": "cloud.engine.embedded.loading",
}
"""Engine name to the module whose `load(config: ServerConfig) -> Engine` makes it, ready to start.

Until the start an engine holds nothing that outlives the object. A loader raises CheckpointError for an unusable model and ValueError for what its engine cannot do with a config.
"""
DEFAULT = "torch"


def load_engine(config: ServerConfig) -> Engine:
    """Load the engine that the config names, in this process or in one of its own.

    Raises:
        CheckpointError: no usable model in `config.model`.
        ValueError: the engine cannot run as configured.
        CloudUnavailableError: the engine's process ended by itself.
    """
    if config.engine_process:
        from cloud.engine.process.remote import EngineProcess

        return EngineProcess(config)
    return load_here(config)


def load_here(config: ServerConfig) -> Engine:
    """Load the engine that the config names, in this process; see :func:`load_engine`."""
    engine: Engine = import_module(LOADERS[config.engine]).load(config)
    return engine
