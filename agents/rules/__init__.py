"""Controllers that are no networks and do not learn while they answer: each module is a kind of rule.

Those that need figures of training prompts state them as plain data (agents/rule_file.py); how these are found is agents/fitting.py, and
what a rule is called is agents/registry.py.
"""

from agents.rules.fixed import FixedRule, RandomRule
from agents.rules.levels import CHANCE, FIGURES, ChanceRule, Figure, LevelRule, level_rule
from agents.rules.link_aware import LinkAware, LinkAwareRule
from agents.rules.published import Rejection, RejectionRule, StagedRule, until_unsure

__all__ = [
    "CHANCE",
    "FIGURES",
    "ChanceRule",
    "Figure",
    "FixedRule",
    "LevelRule",
    "LinkAware",
    "LinkAwareRule",
    "RandomRule",
    "Rejection",
    "RejectionRule",
    "StagedRule",
    "level_rule",
    "until_unsure",
]
