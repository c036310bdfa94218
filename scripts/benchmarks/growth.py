"""Graphs that grow: a training on a random pair, whose graphs never close; what it costs, and where its time goes.

`repetitions` are thousands of training steps; the bar is 50.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from agents.learning.recipe import Recipe
from agents.learning.run import train as train_agent
from agents.learning.settings import PPOSettings
from agents.learning.settings_file import tuned
from runtime.synera.lens import Lens
from scripts._cli import console
from scripts.benchmarks.harness import Figure, Setting
from synera_env import SyneraReplayEnv
from traces import bundled
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.synera.growing_runs import PairRuns
from traces.synera.record import Recorder
from traces.synera.record_models import Models
from traces.tasks import scorers, tinyworld
from traces.tasks.splits import Prompt, bundled_prompts

_PROMPTS, _VALIDATION = 200, 20
_NEW_TOKENS = 48
_STEPS = 1000
_ENVS = 64
_OWN = replace(tuned("ppo", PPOSettings), actions="box", rollout=32, minibatch=256, epochs=6)
_SEED_NODES = 12  # of each prompt, recorded: enough to fit a lens on
_SIZES: dict[str, dict[str, int]] = {
    "slm": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4},
    "llm": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6},
}


def measure(setting: Setting) -> list[Figure]:
    """Train, print the rate of new nodes over time, and return the figures.

    Raises:
        SyneraError: the pair cannot be made.
    """
    torch.set_num_threads(setting.threads)
    steps = _STEPS * setting.repetitions
    links = bundled.links("train")
    with tempfile.TemporaryDirectory() as folder:
        models = random_pair(Path(folder))
        train, validation = _seeds(models)
        runs = PairRuns(models)
        graphs, held = (GrowingGraphs(each, runs, scorers.score) for each in (train, validation))
        recipe = Recipe.of("ppo", _OWN, envs=_ENVS, steps=steps, validate_every=max(steps // 4, 1))
        began = time.monotonic()
        train_agent(
            lambda preference: SyneraReplayEnv(graphs, links, preference=preference),
            SyneraReplayEnv(held, bundled.links("validation")),
            recipe,
            Path(folder) / "run",
        )
        seconds = time.monotonic() - began
        growth = json.loads((Path(folder) / "run" / "config.json").read_text())["growth"]
    console.print(_rates(growth["new_nodes_per_step"], steps))
    return _figures(growth, held.nodes_run, steps, seconds)


def random_pair(folder: Path) -> Models:
    """Make a pair of Qwen3 models that were never trained, over the bundled vocabulary, and load it."""
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    from traces.tasks.vocabulary import build_tokenizer

    tokenizer = build_tokenizer()
    for seed, (name, sizes) in enumerate(_SIZES.items()):
        config = Qwen3Config(
            vocab_size=tokenizer.get_vocab_size(),
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
            **sizes,
        )
        model = Qwen3ForCausalLM(config)
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                # Weights as they are first drawn repeat the last token for ever; these make each depend on the prefix.
                weight.copy_(
                    torch.randn(weight.shape, generator=noise) * (0.35 if weight.dim() > 1 else 0.5) + (weight.dim() == 1)
                )
        if name == "slm":
            model.config.exit_layers = [2, 4]
        model.save_pretrained(folder / name)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
        ).save_pretrained(folder / name)
    return Models.load(folder / "slm", folder / "llm")


def _seeds(models: Models) -> tuple[GraphSet, GraphSet]:
    """Training and validation graphs in which little was recorded."""
    lens, found = None, []
    for split, count in (("train", _PROMPTS), ("validation", _VALIDATION)):
        prompts: list[Prompt] = bundled_prompts(split, -(-count // len(tinyworld.KINDS)))[:count]
        *_, graphs = Recorder(models, scorers.score, _NEW_TOKENS, _SEED_NODES, lens).record(prompts, split)
        assert isinstance(graphs, GraphSet)
        lens = Lens.from_tensors(graphs.lens_tensors)
        found.append(graphs)
    return found[0], found[1]


def _rates(rates: Sequence[float], steps: int) -> Table:
    """New nodes a step, in ten parts of the training."""
    table = Table("steps", "new nodes a step", title="rate of new nodes", title_justify="left")
    part = max(1, -(-len(rates) // 10))
    for start in range(0, len(rates), part):
        some = rates[start : start + part]
        table.add_row(f"{steps * start // len(rates)} ..", f"{sum(some) / len(some):.2f}")
    return table


def _figures(growth: dict[str, Any], validation_nodes: int, steps: int, seconds: float) -> list[Figure]:
    nodes, in_models = growth["nodes_run"] + validation_nodes, growth["model_seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    which = f"{_PROMPTS} prompts, {steps} steps of PPO, random Qwen3 pair"
    return [
        Figure("wall time", seconds, "s", 1800.0, "lower", which),
        Figure("steps", steps / seconds, "a second", 30.0, "higher", which),
        Figure("nodes run", nodes, "", None, "higher", f"{growth['nodes_run']} in training, {validation_nodes} in validation"),
        Figure("nodes", nodes / in_models, "a second in the models", 500.0, "higher", f"{in_models:.1f} s in them"),
        Figure(
            "share of the time in models", in_models / seconds, "of it", 0.9, "lower", "the rest is the environment and PPO"
        ),
        Figure(
            "mean wave",
            growth["mean_wave"],
            "nodes",
            4.0,
            "higher",
            f"{growth['waves']} waves, {_ENVS} environments",
        ),
        Figure("prefixes", growth["prefix_tokens"] / nodes, "tokens a node", 1.0, "lower", "run for their caches alone"),
        Figure("peak memory", peak, "GiB", 4.0, "lower", "of this process"),
    ]
