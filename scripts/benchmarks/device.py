"""The model core: against transformers on the same weights, its own short cuts against the long way, and the drafter's overhead."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, PreTrainedModel

from runtime.clock import RealClock
from runtime.errors import CheckpointError
from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV, SequenceKV
from runtime.model.loading import load_decoder
from runtime.synera.drafter import ModelDrafter
from runtime.synera.knobs import MAX_DRAFT_LENGTH
from scripts.benchmarks import system
from scripts.benchmarks.harness import Figure, Setting, Work, compare, speedup
from synera_env.synera.live import load_device

_ANSWER = 64  # tokens of an answer, after its prompt
_DECODED = 16  # tokens in one timing of the decode step
_DRAFT = 4  # tokens in a verified chunk
_BATCH = 8
_PEER = f"transformers {transformers.__version__}"


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area.

    Raises:
        CheckpointError: the pair's folder has no usable slm/ or llm/.
    """
    torch.set_num_threads(setting.threads)
    transformers.utils.logging.disable_progress_bar()
    figures = []
    for name, goal in (("slm", 2.0), ("llm", 1.0)):
        figures += _against_transformers(name, setting, goal)
    figures += _early_exit(setting)
    figures += _drafting(setting)
    llm = load_decoder(setting.pair / "llm")
    return [*figures, _verify(llm, setting), _ragged(llm, setting), *system.figures(setting)]


def _against_transformers(name: str, setting: Setting, goal: float) -> list[Figure]:
    folder = setting.pair / name
    decoder = load_decoder(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = _ids(decoder, _context(decoder))
    kv, hidden = _filled(decoder, prompt)
    cache = DynamicCache()
    with torch.inference_mode():
        first = model(prompt[None], past_key_values=cache).logits[:, -1].argmax(-1)
    ours = _greedy(decoder, kv, decoder.logits(hidden[-1:]).argmax(-1))
    peer, peer_name = _generate(model, prompt, _written(decoder, prompt))
    return [
        speedup(
            f"answer of {_ANSWER} tokens to {len(prompt)}, {name.upper()}",
            lambda: _written(decoder, prompt),
            peer,
            peer_name,
            setting,
            goal,
        ),
        speedup(
            f"decode {_DECODED} tokens, {name.upper()}",
            ours,
            _peer_greedy(model, cache, first),
            f"{_PEER}, a loop over its forward, DynamicCache",
            setting,
            goal,
        ),
        speedup(
            f"prefill {len(prompt)} tokens, {name.upper()}",
            lambda: decoder.logits(_filled(decoder, prompt)[1][-1:]),
            _peer_prefill(model, prompt),
            f"{_PEER}, DynamicCache",
            setting,
            goal=1.0,
        ),
    ]


def _early_exit(setting: Setting) -> list[Figure]:
    slm = load_decoder(setting.pair / "slm")
    first, layers = slm.config.exit_layers[0], slm.config.layers
    if first == layers:
        return []
    kv, _ = _filled(slm, _ids(slm, _context(slm)))
    token = _ids(slm, 1)

    def step(stop: int) -> Tensor:
        length = kv.lengths[0]
        out = slm.logits(slm.run(slm.embed(token), torch.tensor([length]), kv, 0, stop))
        kv.truncate(length)
        return out

    name = f"draft step that leaves after layer {first} of {layers}, SLM"
    return [speedup(name, lambda: step(first), lambda: step(layers), "our step through all layers", setting, goal=1.2)]


def _drafting(setting: Setting) -> list[Figure]:
    """What a draft token costs beside its forward: probabilities, sketch, bookkeeping."""
    device = load_device(setting.pair / "slm", paced=False)
    slm, tokens = device.slm, MAX_DRAFT_LENGTH
    prompt = _ids(slm, _context(slm))
    drafter = ModelDrafter(slm, device.lens, RealClock(), device.profile)
    drafter.begin(prompt.tolist())
    kv, _ = _filled(slm, prompt[:-1])

    def figure(exit_index: int) -> Figure:
        layer = slm.config.exit_layers[exit_index]

        def drafted() -> None:
            for _ in range(tokens):
                drafter.next(exit_index, 1.0)
            drafter.rollback(len(prompt))

        found = compare(drafted, _greedy(slm, kv, prompt[-1:], tokens, layer), setting.repetitions)
        name, peer = f"drafting {tokens} tokens at layer {layer}, SLM", "decoding them greedily, nothing else"
        return Figure(name, 1 / found.speedup, "x its time", 1.7, "lower", found.describe(peer))

    return [figure(i) for i in range(len(slm.config.exit_layers))]


def _verify(llm: Decoder, setting: Setting) -> Figure:
    context, draft = _ids(llm, _context(llm)), _ids(llm, _DRAFT)
    kv, _ = _filled(llm, context)
    positions = torch.arange(len(context), len(context) + _DRAFT)
    whole = torch.cat([context, draft])

    def partial() -> Tensor:
        out = llm.logits(llm.run(llm.embed(draft), positions, kv))
        kv.truncate(len(context))
        return out

    name = f"verify {_DRAFT} tokens after {len(context)}, LLM"
    return speedup(
        name, partial, lambda: llm.logits(_filled(llm, whole)[1][-_DRAFT:]), "recomputing the whole prefix", setting, goal=2.0
    )


def _ragged(llm: Decoder, setting: Setting) -> Figure:
    longest = _context(llm)
    lengths = [longest * (i + 1) // _BATCH for i in range(_BATCH)]
    caches = [_filled(llm, _ids(llm, length))[0] for length in lengths]
    draft = _ids(llm, _DRAFT)
    places = [torch.arange(length, length + _DRAFT) for length in lengths]
    rows, positions = draft.repeat(_BATCH), torch.cat(places)

    def together() -> None:
        llm.logits(llm.run(llm.embed(rows), positions, RaggedKV(caches, [_DRAFT] * _BATCH)))
        _restore()

    def one_by_one() -> None:
        for kv, place in zip(caches, places, strict=True):
            llm.logits(llm.run(llm.embed(draft), place, kv))
        _restore()

    def _restore() -> None:
        for kv, length in zip(caches, lengths, strict=True):
            kv.truncate(length)

    name = f"ragged batch of {_BATCH} chunks of {_DRAFT}, LLM"
    return speedup(name, together, one_by_one, f"{_BATCH} forwards in turn", setting, goal=1.2)


# ---------------------------------------------------------------- pieces


def _context(decoder: Decoder) -> int:
    """Prompt length: as the bundled tasks' longest answers, or what a small model takes."""
    return min(160, decoder.config.context - _ANSWER - 1)


def _ids(decoder: Decoder, count: int) -> Tensor:
    return torch.randint(0, decoder.config.vocab, (count,), generator=torch.Generator().manual_seed(count))


def _filled(decoder: Decoder, ids: Tensor) -> tuple[SequenceKV, Tensor]:
    kv = decoder.new_cache()
    return kv, decoder.run(decoder.embed(ids), torch.arange(len(ids)), kv)


def _continued(decoder: Decoder, kv: SequenceKV, first: Tensor, count: int, stop: int | None = None) -> Tensor:
    """Greedy tokens [count] after `first` [1], which is the next to be read; layers from `stop` on are left out."""
    tokens, length = [first], kv.lengths[0]
    for place in range(length, length + count):
        hidden = decoder.run(decoder.embed(tokens[-1]), torch.tensor([place]), kv, 0, stop)
        tokens.append(decoder.logits(hidden).argmax(-1))
    return torch.cat(tokens[1:])


def _greedy(decoder: Decoder, kv: SequenceKV, first: Tensor, count: int = _DECODED, stop: int | None = None) -> Work:
    """Decode greedily from a filled cache, then put it back; `first` is the first token read, [1]."""
    length = kv.lengths[0]

    def decode() -> None:
        _continued(decoder, kv, first, count, stop)
        kv.truncate(length)

    return decode


def _written(decoder: Decoder, prompt: Tensor) -> Tensor:
    """The answer to a prompt, ids [_ANSWER]."""
    kv, hidden = _filled(decoder, prompt)
    first = decoder.logits(hidden[-1:]).argmax(-1)
    return torch.cat([first, _continued(decoder, kv, first, _ANSWER - 1)])


def _generate(model: PreTrainedModel, prompt: Tensor, answer: Tensor) -> tuple[Work, str]:
    """The peer's `generate` with the cache that is fastest here, and its name; it must write the same answer.

    Raises:
        CheckpointError: it writes another.
    """
    # Without an end of text both write as much, and the peer is spared the work of suppressing it.
    model.generation_config = GenerationConfig(do_sample=False, min_new_tokens=_ANSWER, max_new_tokens=_ANSWER, pad_token_id=0)

    def work(cache: str) -> Callable[[], Tensor]:
        everything = torch.ones_like(prompt[None])
        return lambda: model.generate(prompt[None], attention_mask=everything, cache_implementation=cache)[0, len(prompt) :]

    works = {cache: work(cache) for cache in ("dynamic", "static")}
    if different := [cache for cache, written in works.items() if not torch.equal(written(), answer)]:
        raise CheckpointError(
            f"{_PEER} with a {different[0]} cache writes another answer with {model.name_or_path}; there is nothing to compare"
        )
    fastest = "dynamic" if compare(works["dynamic"], works["static"], repetitions=5).speedup >= 1 else "static"
    return works[fastest], f"{_PEER}, generate, {fastest} cache"


def _peer_greedy(model: PreTrainedModel, cache: DynamicCache, first: Tensor) -> Work:
    @torch.inference_mode()
    def decode() -> None:
        token = first
        for _ in range(_DECODED):
            token = model(token[None], past_key_values=cache).logits[:, -1].argmax(-1)
        cache.crop(-_DECODED)

    return decode


def _peer_prefill(model: PreTrainedModel, prompt: Tensor) -> Work:
    @torch.inference_mode()
    def prefill() -> None:
        model(prompt[None], past_key_values=DynamicCache(), logits_to_keep=1)

    return prefill
