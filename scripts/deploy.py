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
    synera deploy --system hat                      # beside synera serve --split 2: no token leaves the device, hidden states do
    synera deploy --system hat --controller u-shape --cloud 127.0.0.1:50052
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agents.limits import NO_LIMIT, check_limit
from runtime.errors import SettingError
from runtime.sampling import Sampling
from runtime.settings import shown, within
from scripts import _deploy_hat, _deploy_synera
from scripts._cli import Dtype, check_output, check_seed, launch
from scripts._links import check_filling
from scripts._systems import BUNDLED, Own, SystemName, check_options
from synera_env import Preference
from synera_env.hat.charge import check_first_token_weight
from synera_env.reward import Prefer, chosen_preference
from traces import bundled
from traces.links.filling import Filling

_MOST_TOKENS = 1_000_000
_CONTROLLERS: Mapping[SystemName, str] = {"synera": "threshold", "hat": "hat-rule"}
_OWN: Own = {
    "synera": ("slm", "max_offload", "temperature", "top_p", "top_k", "sampling_seed"),
    "hat": ("model", "adapter", "first_token_weight"),
}


@dataclass(frozen=True)
class Arguments:
    """Answer prompts live."""

    system: SystemName = "synera"
    """What is deployed: synera, a small model whose chunks a verifier checks; or hat, the ends of a large model whose middle a server
    has (synera serve --split 2)."""
    controller: str | None = None
    """By default threshold, of HAT hat-rule. never, always, threshold, random, a level of the draft's confidence, margin, entropy or importance (such as margin=0.5),
    until-unsure, staged, rejection=0.5, ucbspec, exp3spec, linucb, the folder of a bundle, the file of a rule that synera
    fit-rules wrote, or a class of yours as MODULE:CLASS. Of HAT: hat-rule, hat-fixed, drafts, u-sarathi, u-shape, random, the folder of
    a bundle, or a class of yours."""
    cloud: str = "127.0.0.1:50051"
    """HOST:PORT of the verifier, or of several that serve the same model, with commas between them: an answer stays with one, and
    goes on with the next where that one fails. A name of several addresses stands for a verifier at each."""
    prompt: tuple[str, ...] = ()
    """Prompts; by default some of --graphs, or one test prompt of each bundled kind."""
    prompts: Path | None = None
    """A file of prompts, as synera record takes it, instead of --prompt."""
    graphs: Path | None = None
    """A graph file of this SLM, or of HAT's model: some of its prompts are answered where none are named, and a rule takes from it what a bundle
    states itself: how prompts become tokens (such as a chat template), the lens, and where answers are cut."""
    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM."""
    model: Path = bundled.PAIR / "llm"
    """Of HAT: Hugging Face folder of the model; only its ends are loaded."""
    adapter: Path = bundled.ADAPTER
    """Of HAT: file or folder of what drafts: an adapter, which makes a draft model of its first layers, or Medusa heads."""
    profile: Path | None = None
    """Device profile: pace and energy; by default the bundled phone's, of HAT its testbed's board's."""
    device: str = "auto"
    """Where the SLM, or HAT's ends, runs: auto (CUDA where it is there), cpu, cuda or cuda:N."""
    dtype: Dtype = "float32"
    """Arithmetic type of it; in float32 live tokens equal the replay's."""
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
    first_token_weight: float = 1.0
    """Of HAT: how many times a second before the first token counts in the reward that is written down, as in training."""
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
        check_options(self, _OWN)
        check_seed(self.seed)
        check_filling(self.links, self.fill)
        if self.links is not None and not self.emulate_link:
            raise SettingError("--links names what is emulated; leave it out, or --no-emulate-link")
        if self.log is None and self.log_prompts:
            raise SettingError("log_prompts needs a folder to write to: name one with --log FOLDER")
        if self.prompt and self.prompts is not None:
            raise SettingError("prompt and prompts both say what is to be answered; give one of them")
        check_limit(self.max_offload)
        check_first_token_weight(self.first_token_weight)
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
    def profile_file(self) -> Path:
        """Of the device's profile."""
        return self.profile or BUNDLED[self.system].device

    @property
    def decides(self) -> str:
        """The controller."""
        return _CONTROLLERS[self.system] if self.controller is None else self.controller

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

    torch.set_num_threads(1)
    if arguments.log is not None:
        from agents.live_run import check_unused

        check_output(arguments.log, folder=True)
        check_unused(arguments.log)
    _DEPLOY[arguments.system](arguments)


_DEPLOY: Mapping[SystemName, Callable[[Arguments], None]] = {"synera": _deploy_synera.deploy, "hat": _deploy_hat.deploy}


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
