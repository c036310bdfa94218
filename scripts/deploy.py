"""Answer prompts on the device runtime, a controller deciding what the live cloud verifier checks.

Start a verifier first (synera serve); where none answers the device answers alone until one does. By default the device is
paced to a phone and the link is emulated, as the bundled pair is far faster than a phone; --unpaced and --no-emulate-link use
this machine and network as they are.

Examples:
    synera deploy                                   # a test prompt, hand-set thresholds
    synera deploy --controller runs/demo/ppo/bundle
    synera deploy --controller runs/mine/bundle --log runs/live/mine    # and write it down
    synera deploy --controller runs/rules/link-aware.json    # what synera fit-rules wrote
    synera deploy --controller my_rules:Mine        # a class of yours
    synera deploy --controller always --prefer cost --max-offload 0.2   # of five chunks at most one is checked
    synera deploy --controller always --prompt "Describe Dunuham: river, feast, mayor, trade."
    synera deploy --controller always --temperature 0.8 --top-p 0.95   # sampled, as by the LLM itself
    synera deploy --slm /models/small --graphs runs/own-graphs/test.safetensors --prompts prompts.jsonl   # a rule on own models
    synera deploy --cloud verifier.example:443 --tls-ca ca.pem --slm /models/small --prompt "..." --unpaced
    synera deploy --cloud 127.0.0.1:50051,127.0.0.1:50052 --token-file token   # two replicas, which know this device by its token
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.bundle import Bundle
from agents.limits import NO_LIMIT, capped, check_limit
from agents.policy import ControllerPolicy
from agents.registry import controller, rules
from agents.rule_file import SUFFIX, RuleFile
from runtime.errors import SettingError
from runtime.model.frame import Frame
from runtime.policy import drive
from runtime.sampling import Sampling
from runtime.settings import shown, within
from scripts._answer import show_answer
from scripts._cli import Dtype, check_output, check_seed, console, launch, next_step, say
from scripts._evidence import Evidence
from scripts._links import check_filling, links_of
from scripts._text import harmless
from synera_env import Preference, Schema, synera_schema
from synera_env.radio import Radio
from synera_env.reward import Prefer, chosen_preference
from synera_env.telemetry import DECISIONS
from traces import bundled
from traces.links.filling import Filling
from traces.links.trace import LinkTrace
from traces.profile import DeviceProfile
from traces.synera.graph import GraphSet
from traces.tasks import scorers, tinyworld
from traces.tasks.splits import read_prompts

if TYPE_CHECKING:
    from agents.live_run import LiveRun
    from runtime.credentials import Credentials
    from runtime.device import Connection, Device

_MOST_TOKENS = 1_000_000
_SOME = 4  # prompts of a graph file


@dataclass(frozen=True)
class Arguments:
    """Answer prompts live."""

    controller: str = "threshold"
    """never, always, threshold, random, a level of the draft's confidence, margin, entropy or importance (such as margin=0.5),
    until-unsure, staged, rejection=0.5, ucbspec, exp3spec, linucb, the folder of a bundle, the file of a rule that synera
    fit-rules wrote, or a class of yours as MODULE:CLASS."""
    cloud: str = "127.0.0.1:50051"
    """HOST:PORT of the verifier, or of several that serve the same model, with commas between them: an answer stays with one, and
    goes on with the next where that one fails. A name of several addresses stands for a verifier at each."""
    prompt: tuple[str, ...] = ()
    """Prompts; by default some of --graphs, or one test prompt of each bundled kind."""
    prompts: Path | None = None
    """A file of prompts, as synera record takes it, instead of --prompt."""
    graphs: Path | None = None
    """A graph file of this SLM: some of its prompts are answered where none are named, and a rule takes from it what a bundle
    states itself: how prompts become tokens (such as a chat template), the lens, and where answers are cut."""
    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM."""
    profile: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Device profile: pace and energy."""
    device: str = "auto"
    """Where the SLM runs: auto (CUDA where it is there), cpu, cuda or cuda:N."""
    dtype: Dtype = "float32"
    """Arithmetic type of the SLM; in float32 live tokens equal the replay's."""
    unpaced: bool = False
    """Run as fast as this machine does."""
    emulate_link: bool = True
    """Emulate a bundled test link; --no-emulate-link uses the network as it is."""
    links: Path | None = None
    """File or folder of recorded links to emulate instead; those for the test are taken (traces.links.splits says which)."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""
    prefer: Prefer = "balanced"
    """What the controller should value, by name: the weight of seconds (speed), cloud seconds (cost), joules (energy) or megabytes
    (traffic) three times its default; or quality, with all of these a third."""
    preference: Preference = field(default_factory=Preference)
    """What the controller should value, weight by weight."""
    max_offload: float = NO_LIMIT
    """A hard limit for any controller, 0..1: of the first t chunks of an answer at most this share of t, rounded up, is sent."""
    tls_ca: Path | None = None
    """PEM file of the authority that signed the verifier's certificate; required unless the verifier is on this machine."""
    tls_cert: Path | None = None
    """PEM file of this device's own certificate, for a verifier that asks for one."""
    tls_key: Path | None = None
    """PEM file of its private key, which only you may read."""
    token_file: Path | None = None
    """File of the token that the verifier knows this device by; it holds nothing else, and only you may read it."""
    max_new_tokens: int = bundled.MAX_NEW_TOKENS
    """Where answers are cut; a bundle's own limit wins."""
    seed: int = 0
    """Draws the link and where in it an answer starts; prompt by prompt it is one more."""
    temperature: float = 0.0
    """0 decodes greedily; above, tokens are sampled, and where every chunk is checked just as the LLM itself would."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that reach this probability; 1 keeps all."""
    top_k: int = 0
    """Sample from so many likeliest tokens; 0 keeps all."""
    sampling_seed: int = 0
    """Of what is sampled; each prompt has a seed of its own, made of this one and the prompt's number."""
    log: Path | None = None
    """Write every decision to this new folder: JSON lines, which hold the tokens of the answers, and TensorBoard under the
    tags of a training. By default nothing is written."""
    log_prompts: bool = False
    """Write the prompts' text, too."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_filling(self.links, self.fill)
        if self.links is not None and not self.emulate_link:
            raise SettingError("--links names what is emulated; leave it out, or --no-emulate-link")
        if self.log is None and self.log_prompts:
            raise SettingError("log_prompts needs a folder to write to: name one with --log FOLDER")
        if self.prompt and self.prompts is not None:
            raise SettingError("prompt and prompts both say what is to be answered; give one of them")
        check_limit(self.max_offload)
        chosen_preference(self.prefer, self.preference)
        within("max_new_tokens", self.max_new_tokens, 1, _MOST_TOKENS)
        cuts = Sampling(self.temperature or 1.0, self.top_p, self.top_k, self.sampling_seed)
        if not self.temperature and cuts != Sampling():
            raise SettingError("top_p, top_k and sampling_seed need a temperature above 0; without one decoding is greedy")
        for number, text in enumerate(self.prompt, 1):
            if not text.strip():
                raise SettingError(f"prompt {number} is empty; write what is to be answered")
            if not text.isprintable() and any(0xD800 <= ord(character) <= 0xDFFF for character in text):
                raise SettingError(f"prompt {number}, {shown(text)}, is not UTF-8")

    @property
    def valued(self) -> Preference:
        """What the controller should value."""
        return chosen_preference(self.prefer, self.preference)

    @property
    def sampling(self) -> Sampling | None:
        """How tokens are drawn; None is greedy."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.sampling_seed) if self.temperature else None


def main(arguments: Arguments) -> None:
    """Connect, answer each prompt, show what was decided.

    Raises:
        SyneraError: the address, the models, the bundle or a prompt cannot be used, or they do not fit each other.
    """
    import torch

    from runtime.device import Alone, Connection
    from runtime.dialling import dialled
    from synera_env.synera.live import deployment_of

    torch.set_num_threads(1)
    if arguments.log is not None:
        from agents.live_run import check_unused

        check_output(arguments.log, folder=True)
        check_unused(arguments.log)
    graphs = GraphSet.load(arguments.graphs) if arguments.graphs else None
    texts = _texts(arguments, graphs)
    links = links_of(arguments.links, arguments.fill)("test") if arguments.emulate_link else []
    with dialled(arguments.cloud, credentials=_credentials(arguments)) as clients:
        # Before the verifier is asked for anything, as what is wrong on this side needs no verifier to be said.
        bundle = Bundle.load(arguments.controller) if Path(arguments.controller).is_dir() else None
        device = _load_device(arguments, bundle, graphs)
        schema = synera_schema(len(device.slm.config.exit_layers))
        rule = RuleFile.load(arguments.controller) if not bundle and arguments.controller.endswith(SUFFIX) else None
        if rule:
            rule.require(deployment_of(device))
        chosen = bundle.controller(schema) if bundle else controller(arguments.controller, schema)
        policy = ControllerPolicy(capped(chosen, schema, arguments.max_offload), schema, arguments.valued)
        alone = Alone(bundle.meta.fingerprints.get("llm") if bundle else None)
        with Connection(device, clients, alone=alone) as connection:
            if connection.llm_fingerprint is None:
                _say_alone(", ".join(client.target for client in clients))
            elif bundle:
                bundle.require(deployment_of(device, connection.llm_fingerprint), arguments.valued)
            elif rule:
                rule.require(deployment_of(device, connection.llm_fingerprint))
            _check_room(device.max_new_tokens, connection.limits.context)
            encoded = [connection.encode(text) for text in texts]
            with _live_run(arguments, connection, schema, bundle) as run:
                for number, (text, tokens) in enumerate(zip(texts, encoded, strict=True)):
                    radio = _radio(links, arguments.seed + number) if links else None
                    _answer(arguments, connection, policy, run, radio, number, text, tokens)
    pace = "as fast as this machine" if arguments.unpaced else f"paced to the profile {device.profile.name!r} (emulation)"
    console.print(f"device {harmless(pace)}")
    evaluation = f"{_evaluation(arguments, bundle)}   # compares controllers"
    say("next", evaluation, *(_looking_at(arguments.log, bundle, arguments.controller) if arguments.log else ()))


def _credentials(arguments: Arguments) -> Credentials:
    """What this device shows."""
    from runtime.credentials import Credentials, read_token

    token = read_token(arguments.token_file) if arguments.token_file is not None else None
    return Credentials(arguments.tls_ca, arguments.tls_cert, arguments.tls_key, token)


def _texts(arguments: Arguments, graphs: GraphSet | None) -> tuple[str, ...]:
    """The prompts to answer."""
    if arguments.prompts is not None:
        return tuple(prompt.text for prompt in read_prompts(arguments.prompts))
    if graphs is not None and not arguments.prompt:
        return graphs.meta.prompts[:_SOME]
    return arguments.prompt or tuple(tinyworld.tasks(kind, "test", 1)[0].prompt for kind in tinyworld.KINDS)


def _answer(
    arguments: Arguments,
    connection: Connection,
    policy: ControllerPolicy,
    run: LiveRun | None,
    radio: Radio | None,
    number: int,
    text: str,
    tokens: Sequence[int],
) -> None:
    """Answer a prompt, show what was decided, and write it down where there is a run."""
    seed, sampling = arguments.seed + number, arguments.sampling
    link = radio.trace.name if radio else "real"
    written = run.answer(text, len(tokens), preference=arguments.valued, seed=seed, link=link) if run else nullcontext()
    with connection.open(radio, sampling and sampling.of_answer(number)) as session:
        with written as told:
            for step in drive(session, tokens, policy, seed):
                if told is not None:
                    told.settled(step.record)
            if told is not None and not (arguments.prompt or arguments.prompts or arguments.graphs):
                told.quality = scorers.score(text, connection.device.text(session.answer))
        show_answer(text, session.answer, session.records, connection.device, link)


@contextmanager
def _live_run(arguments: Arguments, connection: Connection, schema: Schema, bundle: Bundle | None) -> Iterator[LiveRun | None]:
    """What the run is written to, if it is; says where it lies, also when the run ends early."""
    if arguments.log is None:
        yield None
        return
    from agents.live_run import LiveRun
    from synera_env.synera.live import deployment_of

    device = connection.device
    # Texts of prompts stay out of it: they are written where they are asked for, with their answers.
    given = {f.name: getattr(arguments, f.name) for f in fields(arguments) if f.name != "prompt"}
    configuration = {
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        | {"preference": asdict(arguments.valued), "fill": asdict(arguments.fill)},
        "device_profile": device.profile.name,
        "max_new_tokens": device.max_new_tokens,
        "versions": {name: version(name) for name in ("synera-env", "torch", "onnxruntime", "grpcio", "numpy")},
    }
    fingerprints = dict(deployment_of(device, connection.llm_fingerprint).fingerprints)
    if bundle is not None:
        fingerprints["policy"] = bundle.meta.policy_sha256
    with LiveRun(
        arguments.log,
        schema,
        controller=bundle.meta.name if bundle else arguments.controller,
        fingerprints=fingerprints,
        configuration=configuration,
        keep_prompts=arguments.log_prompts,
    ) as run:
        try:
            yield run
        finally:
            say("log", str(arguments.log / DECISIONS))
            if run.lost:
                console.print(f"{run.lost} records could not be written to {harmless(str(arguments.log))}", style="yellow")


def _looking_at(log: Path, bundle: Bundle | None, controller: str) -> tuple[str, str]:
    """The commands that look at a run; its training, where that lies beside the bundle, is shown with it."""
    shown, training = str(log / "tb"), Path(controller).parent / "tb"
    if bundle is not None and training.is_dir():
        shown = os.path.relpath(os.path.commonpath([os.path.abspath(training), os.path.abspath(shown)]))
    return shlex.join(["synera", "inspect-run", str(log)]), shlex.join(["tensorboard", "--logdir", shown])


def _say_alone(target: str) -> None:
    console.print(
        f"no verifier answers at {harmless(target)}: the device answers alone until one does; start one with: synera serve",
        style="yellow",
    )


def _evaluation(arguments: Arguments, bundle: Bundle | None) -> str:
    """The evaluation of what was deployed; where the graphs of other models than the bundled ones lie is not known here."""
    own = arguments.graphs or "GRAPHS_OF_THE_MODELS"
    given: dict[str, object] = {} if arguments.slm == bundled.PAIR / "slm" else {"graphs": own}
    if bundle is not None:
        given["bundle"] = (arguments.controller,)
    elif arguments.controller not in rules(synera_schema(exits=1)):  # which are evaluated anyway
        given["controller"] = (arguments.controller,)
    given |= {name: getattr(arguments, name) for name in ("prefer", "preference", "max_offload")}
    return next_step("evaluate", **given, device_profile=arguments.profile, links=arguments.links, fill=arguments.fill)


def _load_device(arguments: Arguments, bundle: Bundle | None, graphs: GraphSet | None) -> Device:
    """Load what the controller was made with."""
    from runtime.model.placement import Placement
    from synera_env.synera.live import deployment_of, load_device

    evidence = Evidence.of(bundle, graphs)
    device = load_device(
        arguments.slm,
        lens=evidence.lens,
        profile=DeviceProfile.load(arguments.profile),
        max_new_tokens=evidence.max_new_tokens or arguments.max_new_tokens,
        paced=not arguments.unpaced,
        placement=Placement.of(arguments.device, arguments.dtype),
        frame=evidence.frame,
    )
    if bundle:
        bundle.require(deployment_of(device), arguments.valued)
    else:
        if evidence.slm_fingerprint is not None:
            device.require(evidence.slm_fingerprint, str(arguments.graphs))
        _check_lens(device, arguments.controller)
    if evidence.frame != Frame():
        source = "bundle states" if bundle else "graphs state"
        console.print(f"prompts are read {harmless(str(evidence.frame))}, as the {source}")
    _check_room(device.max_new_tokens, device.slm.config.context)
    return device


def _check_lens(device: Device, controller: str) -> None:
    """A lens that shows nothing calls every chunk important."""
    if "importance=" in controller and not device.lens.importance.any():
        raise SettingError(
            f"{shown(controller)} looks at the importance of chunks, which this SLM's device cannot tell without the tables of a "
            "bundle; choose another figure, or a bundle"
        )


def _check_room(max_new_tokens: int, context: int) -> None:
    if max_new_tokens >= context:
        raise SettingError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the models' context of {context} tokens"
        )


def _radio(links: Sequence[LinkTrace], seed: int) -> Radio:
    """One of the links, from some time on."""
    link = links[seed % len(links)]
    return Radio(link, float(np.random.default_rng(seed).uniform(0, link.seconds)))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
