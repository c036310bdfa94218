"""Many devices of HAT's testbed that share one cloud, event by event.

A device reads the prompt through its shallow layers and uploads the hidden states; the middle's come back, and from the last position's
its head takes a token. Then it goes on token by token, or draft by draft. All states of a prompt come back, not the last alone: only so
are the paper's 3.20 s of transfer for 2,000 tokens and its 384 ms with chunks both within its range of rates (our reading).
What does not live here: the cloud (middle.py), the constants (testbed.py), the lengths of prompts (lengths.py) and of drafts (drafting.py),
and what several runs show (ablation.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from runtime.hat.rules import chunk_tokens, draft_steps
from traces.hat.middle import Average, Happens, Middle
from traces.hat.run import Load, Run, Watch
from traces.hat.testbed import ANSWER_TOKENS, MOST_AHEAD_STEPS, STATE_BYTES, Method, Testbed, mean_byte_seconds


@dataclass(slots=True, eq=False)
class _Answer:
    number: int
    device: int
    begun: float
    up: Callable[[], float]
    """Seconds a byte of the next upload."""
    down: Callable[[], float]
    draw: Callable[[], float]
    """Uniform numbers of its drafts."""
    first: float = 0.0
    """When its first token was there."""
    tokens: int = 0
    coming: int = 1
    """Tokens that the result gives which is waited for."""
    checks: int = 0
    """Results after the first."""
    pieces: int = 0
    """Of the prompt, or one, that the cloud has not run yet."""
    sent: float = 0.0
    """When the last upload began."""
    down_free: float = 0.0
    """When the downlink has carried what is done."""


class _Device:
    """What a device has measured; at first what the testbed lets expect."""

    def __init__(self, testbed: Testbed) -> None:
        up, down = map(mean_byte_seconds, (testbed.uplink_bytes_per_second, testbed.downlink_bytes_per_second))
        self.byte_seconds = Average(up)
        self.verify = Average(testbed.forward_base_seconds)
        self.up = Average(testbed.network_seconds + STATE_BYTES * up)
        self.down = Average(testbed.network_seconds + STATE_BYTES * down)


class Simulation:
    """One run of a method; it serves once."""

    def __init__(self, method: Method, testbed: Testbed, load: Load, seed: int = 0, watch: Watch | None = None) -> None:
        """Begin with an idle cloud.

        Args:
            method: a row of the table.
            testbed: its constants.
            load: who asks.
            seed: not below 0; the same seed, the same run, and of two methods the same prompts.
            watch: sees it.
        """
        self._method, self._testbed, self._load, self._seed, self._watch = method, testbed, load, seed, watch
        self._events: list[tuple[float, int, Happens]] = []
        self._order, self._numbers = count(), count()
        self._lengths = testbed.lengths.draws(self._generator(0))
        self._cloud = Middle(testbed, method.chunking, self._at, watch)
        self._devices: dict[int, _Device] = {}
        self._ttft: list[float] = []
        self._tbt: list[float] = []
        self._pieces = self._piece_tokens = self._checks = 0

    def run(self) -> Run:
        """Serve until the answers that count are whole."""
        for device, begin in self._beginnings(self._generator(1)):
            self._at(begin, partial(self._begin, device))
        now = 0.0
        while len(self._ttft) < self._load.answers:
            now, _, happens = heapq.heappop(self._events)
            happens(now)
        return Run(
            tuple(self._ttft),
            tuple(self._tbt),
            self._cloud.busy_seconds / now,
            self._piece_tokens / self._pieces,
            len(self._tbt) * (ANSWER_TOKENS - 1) / self._checks,
            self._under_way(),
        )

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, *stream))

    def _beginnings(self, rng: np.random.Generator) -> Iterator[tuple[int, float]]:
        """Devices, and when each asks for the first time."""
        if self._load.rate is None:
            spread = 0.05 * ANSWER_TOKENS  # seconds: about an answer, so that they do not go in step
            yield from enumerate((spread * rng.random(self._load.devices)).tolist())
        else:
            at, device = 0.0, 0
            most = self._load.before + 3 * self._load.answers + 1000  # those who come later meet none that counts
            for device in range(most):
                at += rng.exponential(1 / self._load.rate)
                yield device, at

    def _under_way(self) -> float:
        if self._load.rate is None:
            return float(self._load.devices)
        seconds = [first + (ANSWER_TOKENS - 1) * gap for first, gap in zip(self._ttft, self._tbt, strict=True)]
        return self._load.rate * sum(seconds) / len(seconds)

    def _at(self, when: float, happens: Happens) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _begin(self, device: int, now: float) -> None:
        """A device reads a prompt and sends it, piece by piece."""
        number, testbed = next(self._numbers), self._testbed
        prompt = self._load.prompt_tokens or next(self._lengths)
        answer = _Answer(
            number,
            device,
            now,
            up=_byte_seconds(self._generator(2, number), testbed.uplink_bytes_per_second),
            down=_byte_seconds(self._generator(3, number), testbed.downlink_bytes_per_second),
            draw=self._generator(4, number).random,
        )
        if device not in self._devices:
            self._devices[device] = _Device(testbed)
        sizes = self._sizes(prompt, self._devices[device])
        answer.pieces = len(sizes)
        computed = free = now
        for size in sizes:
            computed += testbed.shallow_seconds + size * testbed.read_token_seconds
            free = self._upload(answer, max(computed, free), size, 1 if self._method.chunking else size)
        self._pieces += len(sizes)
        self._piece_tokens += prompt

    def _sizes(self, prompt: int, device: _Device) -> list[int]:
        """Tokens of a prompt's pieces."""
        if not self._method.chunking:
            return [prompt]
        testbed = self._testbed
        most = chunk_tokens(
            STATE_BYTES,
            1 / device.byte_seconds.value,
            self._cloud.waiting.value,
            testbed.forward_base_seconds,
            testbed.forward_token_seconds,
        )
        return [min(most, prompt - done) for done in range(0, prompt, most)]

    def _upload(self, answer: _Answer, begin: float, tokens: int, tail: int) -> float:
        """Carry hidden states to the cloud; returns when the uplink is free."""
        each = answer.up()
        end = begin + tokens * STATE_BYTES * each
        if self._watch is not None:
            self._watch.sent(answer.device, begin, end, tokens)
        self._devices[answer.device].byte_seconds.take(each)
        arrived = end + self._testbed.network_seconds
        back = partial(self._done, answer, tokens, arrived)
        self._at(arrived, lambda now: self._cloud.take(now, tokens, tail, answer.tokens > 0, back))
        return end

    def _done(self, answer: _Answer, rows: int, arrived: float, now: float) -> None:
        """The cloud has run states, and sends its own back."""
        answer.pieces -= 1
        answer.down_free = max(now, answer.down_free) + rows * STATE_BYTES * answer.down()
        received = answer.down_free + self._testbed.network_seconds
        if answer.pieces:
            return
        if answer.tokens:
            device = self._devices[answer.device]
            device.verify.take(now - arrived)
            device.down.take(received - now)
        self._at(received + self._testbed.head_seconds, partial(self._commit, answer))

    def _commit(self, answer: _Answer, now: float) -> None:
        """The head has taken tokens from what came back."""
        if answer.tokens:
            answer.checks += 1
        else:
            answer.first = now
        answer.tokens += answer.coming
        left = ANSWER_TOKENS - answer.tokens
        if left == 0:
            self._end(answer, now)
        elif left == 1 or not self._method.drafts:
            self._send(answer, now, 0, 0)
        else:
            draft = self._testbed.drafting.draw(answer.draw, left - 1)
            self._send(answer, now, draft.tokens, draft.accepted)

    def _send(self, answer: _Answer, now: float, drafted: int, accepted: int) -> None:
        """Draft, less what was drafted while waiting, and send the states of the last token and the draft."""
        testbed, device = self._testbed, self._devices[answer.device]
        ahead = self._steps_ahead(answer, now) if drafted and self._method.ahead else 0
        ready = now + max(0, drafted - ahead) * testbed.draft_seconds
        if ahead <= drafted:  # the draft's last token has not been through the layers
            ready += testbed.shallow_seconds
        answer.coming, answer.sent, answer.pieces = accepted + 1, ready, 1
        device.up.take(self._upload(answer, ready, drafted + 1, drafted + 1) + testbed.network_seconds - ready)

    def _steps_ahead(self, answer: _Answer, now: float) -> int:
        """Steps of use that were made while the last verification was away: as many as the device planned, and had time for."""
        if not answer.checks or answer.draw() >= self._testbed.hit_rate:
            return 0
        device, step = self._devices[answer.device], self._testbed.draft_seconds
        planned = draft_steps(device.verify.value, device.up.value, device.down.value, step, MOST_AHEAD_STEPS)
        return min(planned, int((now - self._testbed.head_seconds - answer.sent) / step))

    def _end(self, answer: _Answer, now: float) -> None:
        if self._watch is not None:
            self._watch.ended(answer.number, answer.tokens)
        if 0 <= answer.number - self._load.before < self._load.answers:
            self._ttft.append(answer.first - answer.begun)
            self._tbt.append((now - answer.first) / (ANSWER_TOKENS - 1))
            self._checks += answer.checks
        if self._load.rate is None:
            self._at(now, partial(self._begin, answer.device))


def _byte_seconds(rng: np.random.Generator, bytes_per_second: tuple[float, float]) -> Callable[[], float]:
    """Seconds a byte, one transfer after the other."""
    low, high = bytes_per_second
    return lambda: 1 / (low + (high - low) * rng.random())
