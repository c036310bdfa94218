"""What the reward charges for an upload of HAT: the times to the first token and between tokens are weighted apart.

What does not live here: the reward's formula (synera_env/reward.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runtime.hat.values import HatRecord
from runtime.session import Cost
from runtime.settings import within
from synera_env.metrics import Charged


def check_first_token_weight(weight: float) -> None:
    """Refuse a weight that makes no sense.

    Raises:
        SettingError: it is outside 0..1000.
    """
    within("first_token_weight", weight, 0.0, 1000.0)


def charging(first_token_weight: float) -> Charged:
    """Return what tells the cost that is charged for a record: each second before the first token counts so many times.

    Records of other systems are charged what they cost.
    """

    def charged(record: Any) -> Cost:
        cost: Cost = record.cost
        if first_token_weight == 1.0 or not (isinstance(record, HatRecord) and record.first_token):
            return cost
        return replace(cost, seconds=cost.seconds * first_token_weight)

    return charged
