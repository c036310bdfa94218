from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from runtime.errors import SettingError
from traces.hat.lengths import PromptLengths


def _drawn(law: PromptLengths, seed: int, prompts: int) -> list[int]:
    return list(islice(law.draws(np.random.default_rng(seed)), prompts))


def test_the_papers_mean_and_90th_percentile_come_out() -> None:
    drawn = _drawn(PromptLengths(), 0, 30_000)
    assert np.mean(drawn) == pytest.approx(351.2, rel=0.005)
    assert np.quantile(drawn, 0.9) == pytest.approx(891, rel=0.01)


def test_each_block_of_prompts_has_nearly_the_mean() -> None:
    means = [np.mean(_drawn(PromptLengths(), seed, 60)) for seed in range(20)]
    assert np.std(means) < 0.03 * 351.2  # of 60 independent prompts it would be 0.13


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    law = PromptLengths()
    assert _drawn(law, 3, 100) == _drawn(law, 3, 100) != _drawn(law, 4, 100)


def test_cnn_dm_has_a_law_too() -> None:
    """Its 90th percentile is 1.7 times its mean; there is a law only where more of the prompts are long."""
    law = PromptLengths(mean_tokens=1036.6, p90_tokens=1772, long_share=0.5)
    assert np.mean(_drawn(law, 0, 30_000)) == pytest.approx(1036.6, rel=0.01)


@pytest.mark.parametrize("wrong", [{"mean_tokens": 0.5}, {"p90_tokens": 300.0}, {"long_share": 0.9}, {"most_tokens": 0}])
def test_a_wrong_law_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        PromptLengths(**wrong)  # type: ignore[arg-type]
