"""What a person is shown of an answer: lines of text, and a picture."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from runtime.synera.knobs import Knobs
from synera_env import picture
from synera_env.radio import Outages
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS
from tests.support.graphs import CLOUD, DEVICE
from tests.support.toy import TeaEnv, TeaKnobs
from traces.links.generators import constant_link
from traces.synera.graph import GraphSet

CUT_OFF = Outages(every_seconds=1e-3, mean_seconds=1e9)


def make(graphs: GraphSet, render_mode: str | None, **changes: Any) -> SyneraReplayEnv:
    settings = {"links": [constant_link()], "device": DEVICE, "cloud": CLOUD, "outages": Outages.never()}
    return SyneraReplayEnv(graphs, **(settings | changes), render_mode=render_mode)


def telling(graphs: GraphSet, word: str = "word") -> GraphSet:
    """Graphs that state the text of every token."""
    texts = {str(token): f" {word}{token}" for token in range(5000)}
    return GraphSet(replace(graphs.meta, texts=texts), graphs._arrays)


# ---------------------------------------------------------------- text


def test_ansi_has_a_line_a_chunk_in_words(akin_graphs: GraphSet) -> None:
    env = make(telling(akin_graphs), "ansi")
    assert env.render() is None
    env.reset(seed=0, options={"prompt": 2})
    assert env.render() == ""
    env.step(env.schema.action(Knobs(draft_length=2)))
    env.step(env.schema.action(Knobs(confidence_threshold=1.0, offload_budget=1.0)))
    text = env.render()
    assert isinstance(text, str)
    kept, sent = text.splitlines()
    assert "keep" in kept
    assert "offload" in sent
    for line, record in zip((kept, sent), env.session.records, strict=True):
        said = ["".join(f" word{token}" for token in ids) for ids in (record.draft.ids, record.committed)]
        assert f"draft {said[0]!r} -> {said[1]!r}" in line
        assert f"confidence {record.draft.confidence:.3f}" in line
        assert f"at {record.committed_at:.3f} s" in line


def test_a_token_whose_text_was_not_recorded_is_shown_by_its_id(akin_graphs: GraphSet) -> None:
    env = make(GraphSet(replace(akin_graphs.meta, texts={}), akin_graphs._arrays), "ansi")
    env.reset(seed=0)
    env.step(env.schema.action(Knobs()))
    assert f"<{env.session.records[0].committed[0]}>" in str(env.render())


def test_nothing_in_an_answer_acts_on_the_terminal(akin_graphs: GraphSet) -> None:
    env = make(telling(akin_graphs, "\x1b[2J\n\r\u202e"), "ansi")
    env.reset(seed=0)
    env.step(env.schema.action(Knobs()))
    text = str(env.render())
    assert "\n" not in text
    assert all(character.isprintable() for character in text)


def test_a_lost_check_is_told_from_one_that_was_answered(akin_graphs: GraphSet) -> None:
    env = make(akin_graphs, "ansi", outages=CUT_OFF)
    env.reset(seed=0)
    env.step(env.schema.action(ALWAYS))
    assert env.session.records[0].error
    assert "  1 lost    confidence" in str(env.render())


def test_without_a_mode_nothing_is_rendered(akin_graphs: GraphSet) -> None:
    env = make(akin_graphs, None)
    env.reset(seed=0)
    assert env.render() is None


def test_a_system_that_says_nothing_of_itself_is_rendered_too() -> None:
    text, drawn = TeaEnv(render_mode="ansi"), TeaEnv(render_mode="rgb_array")
    for env in (text, drawn):
        env.reset(seed=0)
        env.advance(TeaKnobs(ask=1.0, cups=2))
    assert text.render() == "  1 'right right' at 0.200 s"
    assert_picture(drawn.render())


# ---------------------------------------------------------------- pictures


def assert_picture(frame: Any) -> None:
    assert isinstance(frame, np.ndarray)
    assert (frame.shape, frame.dtype) == ((picture.HEIGHT, picture.WIDTH, 3), np.uint8)


def pixels(frame: Any, colour: str) -> int:
    """How much of a frame has a colour exactly."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((frame == wanted).all(-1).sum())


def test_a_picture_grows_with_the_answer(akin_graphs: GraphSet) -> None:
    env = make(telling(akin_graphs), "rgb_array")
    frames = [env.render()]
    env.reset(seed=0, options={"prompt": 2})
    frames.append(env.render())
    terminated = False
    while not terminated:
        *_, terminated, _, _ = env.step(env.schema.action(Knobs(draft_length=2)))
        frames.append(env.render())
    for frame in frames:
        assert_picture(frame)
    assert all(not np.array_equal(one, other) for one, other in pairwise(frames))
    assert (frames[0] == 255).all(), "nothing is under way"
    assert np.array_equal(frames[-1], env.render()), "the end stays to be seen"
    env.close()
    assert np.array_equal(frames[0], env.render())


def test_the_colours_tell_what_became_of_a_chunk(akin_graphs: GraphSet) -> None:
    """Each legend patch is there from the start; a bar of an outcome is many more pixels of its colour."""
    cases = {"kept": (Knobs(), Outages.never()), "checked": (ALWAYS, Outages.never()), "lost": (ALWAYS, CUT_OFF)}
    for outcome, (knobs, outages) in cases.items():
        env = make(akin_graphs, "rgb_array", outages=outages)
        env.reset(seed=0, options={"prompt": 2})
        before, _ = env.render(), env.step(env.schema.action(knobs))
        after = env.render()
        for name in ("kept", "checked", "lost"):
            grown = pixels(after, picture.COLOURS[name]) - pixels(before, picture.COLOURS[name])
            assert grown > 300 if name == outcome else grown == 0


def test_each_token_is_told_by_where_it_comes_from(akin_graphs: GraphSet) -> None:
    env = make(telling(akin_graphs), "rgb_array")
    env.reset(seed=0, options={"prompt": 2})
    env.step(env.schema.action(Knobs(draft_length=2)))
    env.step(env.schema.action(ALWAYS))
    kept, sent = env.session.records
    assert picture.origins(kept) == ["kept"] * len(kept.committed)
    assert picture.origins(sent) == ["checked"] * sent.accepted + ["corrected"] * (len(sent.committed) - sent.accepted)
    assert picture.origins(replace(sent, error="gone", accepted=0)) == ["lost"] * len(sent.committed)
    # The cloud's own token is written in its colour, which nothing but the legend has otherwise.
    one = env.render()
    assert np.array_equal(one, env.render())
    assert (len(sent.committed) > sent.accepted) == (orange_text(one) > 5)


def orange_text(frame: Any) -> int:
    """Pixels of the answer's lines, above the legend, that are nearer to the colour of a correction than to any other."""
    lines = np.asarray(frame, int)[30:110]
    distances = [
        np.abs(lines - [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).sum(-1)
        for colour in (picture.COLOURS["corrected"], *(c for n, c in picture.COLOURS.items() if n != "corrected"), "#ffffff")
    ]
    return int((np.argmin(distances, 0) == 0).sum())


def test_outages_are_grey_and_without_a_radio_there_is_no_link(akin_graphs: GraphSet) -> None:
    env, cut = make(akin_graphs, "rgb_array"), make(akin_graphs, "rgb_array", outages=CUT_OFF)
    frames = []
    for each in (env, cut):
        each.reset(seed=0, options={"prompt": 2})
        each.step(each.schema.action(Knobs()))
        frames.append(each.render())
    assert pixels(frames[1], "#bbbbbb") > 5000 > pixels(frames[0], "#bbbbbb")
    env._radio = None
    assert pixels(env.render(), "#8866aa") == 0 < pixels(frames[0], "#8866aa")


def test_what_looks_like_markup_is_only_text(akin_graphs: GraphSet) -> None:
    env = make(telling(akin_graphs, "$\\frac{1}$\x00\n"), "rgb_array")
    env.reset(seed=0)
    env.step(env.schema.action(Knobs()))
    assert_picture(env.render())


def test_a_very_long_answer_fits(akin_graphs: GraphSet) -> None:
    """Its last lines are shown, within the frame."""
    env = make(telling(akin_graphs, "unbroken" * 400), "rgb_array")
    env.reset(seed=0, options={"prompt": 2})
    while not env.step(env.schema.action(Knobs(draft_length=1)))[2]:
        pass
    frame = env.render()
    assert_picture(frame)
    assert (frame[:, -3:] == 255).all()  # type: ignore[index]


def test_rendering_opens_no_window_and_leaves_pyplot_alone(akin_graphs: GraphSet) -> None:
    import subprocess
    import sys

    code = (
        "import sys, synera_env\n"
        "assert 'matplotlib' not in sys.modules\n"
        "env = synera_env.SyneraReplayEnv(render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "assert 'matplotlib' not in sys.modules\n"
        "assert env.render().any()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("mode", ["human", "rgb", "", 3, ["ansi"]])
def test_an_unknown_mode_is_refused(akin_graphs: GraphSet, mode: Any) -> None:
    with pytest.raises(ValueError, match=r"render_mode=.* is not supported; use None, 'ansi' or 'rgb_array'"):
        make(akin_graphs, mode)
