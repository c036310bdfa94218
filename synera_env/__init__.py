"""The decision problem as Gymnasium environments: knobs, observation, reward, replayed and live worlds.

Importing it registers `SyneraReplay-v0` and `SyneraLive-v0`, and loads neither torch nor grpc. What controllers need of
the runtime is re-exported here.
"""

from gymnasium.envs.registration import register

from runtime.errors import CheckpointError, SyneraError
from runtime.synera.knobs import MAX_DRAFT_LENGTH, Knobs
from runtime.synera.lens import Lens
from runtime.synera.session import StepRecord
from synera_env.metrics import EpisodeMetrics, summarise
from synera_env.reward import Preference
from synera_env.synera.env import SyneraEnv, SyneraReplayEnv
from synera_env.synera.schema import FEATURES, KNOB_NAMES, Encoder

__all__ = [
    "FEATURES",
    "KNOB_NAMES",
    "MAX_DRAFT_LENGTH",
    "CheckpointError",
    "Encoder",
    "EpisodeMetrics",
    "Knobs",
    "Lens",
    "Preference",
    "StepRecord",
    "SyneraEnv",
    "SyneraError",
    "SyneraReplayEnv",
    "summarise",
]

register("SyneraReplay-v0", entry_point="synera_env.synera.env:SyneraReplayEnv")
register("SyneraLive-v0", entry_point="synera_env.synera.live:SyneraLiveEnv", nondeterministic=True)
