"""The vector environment over token graphs: many answers side by side, stepped by compiled code.

What does not live here: the compiled step (kernel/), and the scalar environment that says what is right (replay.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from runtime.deadline import CHECK_DEADLINE
from runtime.errors import SettingError
from runtime.settings import shown, whole
from synera_env.arguments import Links, Source
from synera_env.busy import CloudLoad
from synera_env.episode import ResetOptions, checked_seed
from synera_env.radio import Outages
from synera_env.reward import TERMS, Preference
from synera_env.synera.alone import leaves_alone
from synera_env.synera.kernel.pool import Pool
from synera_env.synera.kernel.sight import METRICS
from synera_env.synera.kernel.state import NOTHING, new_state
from synera_env.synera.kernel.step import DISABLED, NEXT_STEP, RESET, SAME_STEP, Out, new_out, step
from synera_env.synera.kernel.world import KNOBS, world_of
from synera_env.synera.replay import SyneraReplayEnv
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs

MOST_ENVS = 65_536
_SEEDS = 64  # of answers, drawn ahead for each row
_MODES = {
    AutoresetMode.SAME_STEP: SAME_STEP,
    AutoresetMode.NEXT_STEP: NEXT_STEP,
    AutoresetMode.DISABLED: DISABLED,
}
Arrays = NDArray[Any]
Transitions = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class SyneraReplayVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], Arrays]):
    """`SyneraReplay-v0`, many answers side by side: what row i shows, earns and ends with is, step for step, what the scalar
    environment does that is reset with seed i.

    Actions, observations, reward, episode and arguments are those of :class:`synera_env.synera.replay.SyneraReplayEnv`; observations
    are equal bit for bit, and so are rewards but for the rounding of their sum.

    ## Seeds

    `reset(seed=s)` seeds row i with s + i, `reset(seed=[...])` each row with its own. Without a seed rows go on.

    ## Autoreset

    `AutoresetMode.SAME_STEP`: an answer that is over is followed by the next one within the step; `info["final_obs"]` then has
    its last observation and `info["final_info"]` how it ended. With `NEXT_STEP` the next step begins it, whatever its action, with
    reward 0, and knobs of NaN in `info`. With `DISABLED` a row whose answer is over stands still until `reset` begins all rows anew: its
    observation stays, it earns nothing, and the step that ended it is the only one that says so.

    ## Info

    Vectors, an entry a row: `reward_terms` and `knobs` by name, `vector_reward` [rows, terms], `offloaded`, `uncovered`, `quality_known`. Where an answer is over:
    `final_obs` [rows, entries] and `final_info` with `episode_metrics` by name, each with a mask of the rows that have it.
    `reset` says `prompt`, `kind`, `link` and `link_offset_seconds`.

    Everything returned is the caller's to keep.
    """

    def __init__(
        self,
        num_envs: int = 1,
        graphs: GraphSet | GrowingGraphs | Source | None = None,
        links: Links | None = None,
        device: DeviceProfile | Mapping[str, Any] | Source | None = None,
        cloud: CloudProfile | Mapping[str, Any] | Source | None = None,
        preference: Preference | Mapping[str, float] | None = None,
        outages: Outages | Mapping[str, float] | None = None,
        render_mode: None = None,
        check_deadline: float = CHECK_DEADLINE,
        cloud_load: CloudLoad | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        """Open the world; see :class:`synera_env.synera.replay.SyneraReplayEnv` for the arguments that it has, too.

        Args:
            num_envs: rows.
            graphs: see there. In graphs that grow, rows that need what is not known yet stand still together, and the models are
                run once for all of them.
            links: see there, likewise `device`, `cloud`, `preference`, `outages`, `check_deadline` and `cloud_load`.
            device: see there.
            cloud: see there.
            preference: see there.
            outages: see there.
            render_mode: None; there is nothing to look at.
            check_deadline: see there.
            cloud_load: see there.
            autoreset_mode: `SAME_STEP`, `NEXT_STEP` or `DISABLED`.

        Raises:
            SettingError: an argument is of a wrong type or out of range.
            TraceError: a file is missing or damaged.
        """
        whole("num_envs", num_envs, 1, MOST_ENVS)
        if render_mode is not None:
            raise SettingError(
                f"render_mode={shown(render_mode)} is not supported here; make one answer with gymnasium.make to look at it"
            )
        mode = next((mode for mode in _MODES if autoreset_mode in (mode, mode.value)), None)
        if mode is None:
            raise SettingError(
                f"autoreset_mode={shown(autoreset_mode)} is not one of {', '.join(mode.value for mode in _MODES)}"
            )
        scalar = SyneraReplayEnv(graphs, links, device, cloud, preference, outages, None, check_deadline, cloud_load)
        self._set_up(scalar, num_envs, mode)

    @classmethod
    def of(
        cls, scalar: SyneraReplayEnv, num_envs: int, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP
    ) -> SyneraReplayVectorEnv:
        """Return rows over the world of a scalar environment, which is open already."""
        made = cls.__new__(cls)
        made._set_up(scalar, num_envs, autoreset_mode)
        return made

    def _set_up(self, scalar: SyneraReplayEnv, num_envs: int, mode: AutoresetMode) -> None:
        self.scalar = scalar
        """What says what is right; it is never stepped."""
        self.num_envs, self.render_mode, self.schema = num_envs, None, scalar.schema
        self.metadata = {"render_modes": [], "autoreset_mode": mode}
        self._mode = _MODES[mode]
        self.single_observation_space, self.single_action_space = self.schema.observation_space, self.schema.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._world, growing = world_of(self.scalar), self.scalar.graphs
        self._pool = Pool(growing) if isinstance(growing, GrowingGraphs) else None
        meta, entries = self.scalar.graphs.meta, len(self.schema.low)
        sizes = (len(meta.exit_layers), meta.max_new_tokens, entries, len(KNOBS), len(METRICS), _SEEDS)
        self._state = new_state(num_envs, *sizes)
        self._generators: list[np.random.Generator] = []
        self._no_actions = np.zeros((num_envs, len(KNOBS)), np.float32)
        self._drawn = np.full((num_envs, 3 + len(TERMS)), np.nan)  # nothing is chosen

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an answer in every row; `options` are those of the scalar environment: one mapping for all rows, or one for each.

        Raises:
            SettingError: a seed or an option is unknown, of a wrong type or out of range.
        """
        chosen = self._chosen_by_row(options)
        self._seed(self._seeds_of(seed))
        out = self._call(self._no_actions, RESET, chosen)
        rows = self._state.rows
        meta, links = self.scalar.graphs.meta, self.scalar.links
        info = {
            "prompt": np.array([meta.prompts[i] for i in rows["prompt"]], object),
            "kind": np.array([meta.kinds[i] for i in rows["prompt"]], object),
            "link": np.array([links[i].name for i in rows["link"]], object),
            "link_offset_seconds": rows["offset"].copy(),
        }
        return out.observation, info | {f"_{name}": np.ones(self.num_envs, np.bool_) for name in info}

    def step(self, actions: NDArray[np.float32]) -> Transitions:
        """Decide every row by an action, [rows, knobs].

        Raises:
            RuntimeError: nothing was begun.
            SettingError: the actions are of another shape, or hold a NaN.
        """
        if not self._generators:
            raise RuntimeError("no answers are under way: call reset() first")
        given = np.array(actions, np.float32, order="C")  # a copy, as each other kind of array would be compiled for anew
        if given.shape != self._no_actions.shape:
            raise SettingError(f"actions have shape {list(given.shape)}; it must be {list(self._no_actions.shape)}")
        if (missing := np.isnan(given)).any():
            row, knob = np.argwhere(missing)[0]
            raise SettingError(f"the action of row {row} has NaN for {KNOBS[knob]}; it must be a number")
        out = self._call(given, self._mode, self._drawn)
        return out.observation, out.reward, out.terminated, out.truncated, self._info(out)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which of the schema's choices can be done now, [rows, choices]; see :class:`synera_env.discrete.DiscreteChoices`."""
        limits = np.array([each.offload_budget for each in self.schema.choices])
        assert set(limits.tolist()) <= {0.0, 1.0}  # any other would depend on how often an answer has sent
        return ~(leaves_alone(self._state.rows)[:, None] & (limits > 0.0))

    def branch(self, parents: NDArray[np.intp]) -> None:
        """Let each row go on from the decision that another one stands at, [rows]: for who plans, and tries several things there."""
        self._state.branch(parents)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """[rows]: whether the last chunk was checked, and the check was answered in time."""
        rows = self._state.rows
        return rows["asked"] & rows["verdict"]

    def answers(self) -> list[tuple[int, ...]]:
        """Return the tokens of each row's answer so far."""
        rows = self._state.rows
        return [tuple(tokens[:count].tolist()) for tokens, count in zip(self._state.token, rows["generated"], strict=True)]

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing is held that would have to be released."""

    # ------------------------------------------------------------ pieces

    def _call(self, actions: NDArray[np.float32], mode: int, chosen: Arrays) -> Out:
        out, graphs = new_out(*self._state.seen.shape), self.scalar.graphs
        if self._pool is None:
            spent, _ = step(self._world, self._state, actions, chosen, mode, out)
        else:
            spent = self._grow(self._pool, actions, chosen, mode, out)
        if isinstance(graphs, GraphSet) and self._world.graphs.laid[0]:
            graphs.put_back()
            self._world.graphs.laid[0] = 0
        if spent:
            self._draw_seeds(np.flatnonzero(self._state.rows["taken"] == _SEEDS).tolist())
        return out

    def _grow(self, pool: Pool, actions: NDArray[np.float32], chosen: Arrays, mode: int, out: Out) -> int:
        """Step rows, and return how many have spent their seeds; those that need what is not known yet go back to where they were, and
        are stepped again once it is.
        """
        state, kept = self._state, self._state.kept()
        rows, spent = state.rows, 0
        try:
            while True:
                spent += step(self._world, state, actions, chosen, mode, out)[0]
                wanting = np.flatnonzero(rows["wanted"] != NOTHING)
                if not wanting.size:
                    break
                wanted = rows["wanted"][wanting]
                state.put_back(kept, wanting)
                pool.provide(wanted)
                self._world = self._world._replace(graphs=pool.laid(self._world.graphs))
        except BaseException:
            state.put_back(kept, np.arange(len(rows)))
            raise
        finally:
            state.todo[:] = True
        begun = rows["taken"] != kept.rows["taken"]
        if begun.any():
            pool.settle(rows["prompt"][begun].tolist(), set(rows["prompt"].tolist()))
        return spent

    def _info(self, out: Out) -> dict[str, Any]:
        info: dict[str, Any] = {
            "reward_terms": dict(zip(TERMS, out.terms, strict=True)),
            "vector_reward": out.vector_reward,
            "knobs": dict(zip(KNOBS, out.knobs, strict=True)),
            "offloaded": out.offloaded,
            "uncovered": out.truncated,
            "quality_known": out.quality_known,
        }
        over = out.terminated | out.truncated
        if over.any():
            final = {"episode_metrics": dict(zip(METRICS, out.metrics, strict=True)), "_episode_metrics": out.terminated}
            info |= {"final_obs": out.final, "_final_obs": over, "final_info": final, "_final_info": over}
        return info

    def _seeds_of(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
            if len(seed) != self.num_envs:
                raise SettingError(f"seed={shown(seed)} must have {self.num_envs} entries, one a row")
            return [checked_seed(each) for each in seed]
        first = checked_seed(seed)
        return [None if first is None else first + row for row in range(self.num_envs)]

    def _seed(self, seeds: Sequence[int | None]) -> None:
        """Give rows a generator of their own where a seed is given, or none is there yet."""
        if not self._generators:
            self._generators = [seeding.np_random(seed)[0] for seed in seeds]
            self._draw_seeds(range(self.num_envs))
            return
        for row, seed in enumerate(seeds):
            if seed is not None:
                self._generators[row] = seeding.np_random(seed)[0]
                self._draw_seeds([row])

    def _draw_seeds(self, rows: Sequence[int]) -> None:
        """Draw the seeds of the next answers of rows, as the scalar environment draws one by one."""
        for row in rows:
            self._state.seeds[row] = self._generators[row].integers(2**64, size=_SEEDS, dtype=np.uint64)
            self._state.rows["taken"][row] = 0

    def _chosen_by_row(self, options: dict[str, Any] | Sequence[Mapping[str, Any]] | None) -> Arrays:
        """What is chosen of each row's answer, [rows, places]; NaN is drawn."""
        if not isinstance(options, Sequence):
            return np.tile(self._chosen(self.scalar.reset_options(options)), (self.num_envs, 1))
        if len(options) != self.num_envs:
            raise SettingError(f"options must be one mapping, or {self.num_envs}, one a row; they are {len(options)}")
        return np.stack([self._chosen(self.scalar.reset_options(each)) for each in options])

    def _chosen(self, options: ResetOptions) -> Arrays:
        places = (options.prompt, options.link, options.link_offset_seconds)
        weights = [None] * len(TERMS) if options.preference is None else astuple(options.preference)
        return np.array([np.nan if each is None else each for each in (*places, *weights)])
