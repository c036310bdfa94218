"""The decision problem as Gymnasium environments: knobs, observation, reward, replayed and live worlds.

Importing it registers `SyneraReplay-v0`, with discrete actions `SyneraReplay-discrete-v0`, with a reward for each objective
`mo-SyneraReplay-v0`, and `SyneraLive-v0`; it loads neither torch nor grpc. A process that has not imported it makes them by
`gymnasium.make("synera_env:SyneraReplay-v0")`. What controllers need of
the runtime and of the traces is re-exported here.
"""

from gymnasium.envs.registration import register

from runtime.errors import SettingError, SyneraError, UncoveredError
from runtime.model.frame import Frame
from runtime.policy import drive
from runtime.session import StepRecord
from runtime.synera.knobs import Knobs
from synera_env.base import DecisionEnv, Deployment
from synera_env.discrete import DiscreteChoices
from synera_env.metrics import EpisodeMetrics, summarise
from synera_env.radio import Outages
from synera_env.reward import Preference, PreferenceRange
from synera_env.schema import Feature, Knob, Schema, View, preference_features
from synera_env.synera.env import SyneraEnv
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import synera_schema
from synera_env.wrappers import FixedPreference, RandomWorld, VectorReward
from traces.errors import TraceError
from traces.files import replacing_folder, write_bytes, write_json
from traces.schemas import EXACT, parse_json, read_file, read_json
from traces.synera.waves import side_by_side

__all__ = [
    "EXACT",
    "DecisionEnv",
    "Deployment",
    "DiscreteChoices",
    "EpisodeMetrics",
    "Feature",
    "FixedPreference",
    "Frame",
    "Knob",
    "Knobs",
    "Outages",
    "Preference",
    "PreferenceRange",
    "RandomWorld",
    "Schema",
    "SettingError",
    "StepRecord",
    "SyneraEnv",
    "SyneraError",
    "SyneraReplayEnv",
    "TraceError",
    "UncoveredError",
    "VectorReward",
    "View",
    "drive",
    "parse_json",
    "preference_features",
    "read_file",
    "read_json",
    "replacing_folder",
    "side_by_side",
    "summarise",
    "synera_schema",
    "write_bytes",
    "write_json",
]

register(
    "SyneraReplay-v0",
    entry_point="synera_env.synera.replay:SyneraReplayEnv",
    vector_entry_point="synera_env.synera.vector:SyneraReplayVectorEnv",
)
register(
    "SyneraReplay-discrete-v0",
    entry_point="synera_env.synera.replay:SyneraReplayEnv",
    additional_wrappers=(DiscreteChoices.wrapper_spec(),),
)
register(
    "mo-SyneraReplay-v0",
    entry_point="synera_env.synera.replay:SyneraReplayEnv",
    additional_wrappers=(VectorReward.wrapper_spec(),),
)
register("HatReplay-v0", entry_point="synera_env.hat.replay:HatReplayEnv")
register(
    "HatReplay-discrete-v0",
    entry_point="synera_env.hat.replay:HatReplayEnv",
    additional_wrappers=(DiscreteChoices.wrapper_spec(),),
)
register("HatLive-v0", entry_point="synera_env.hat.live:HatLiveEnv", nondeterministic=True)
register("SyneraLive-v0", entry_point="synera_env.synera.live:SyneraLiveEnv", nondeterministic=True)
