"""Counterfactual training: on a token graph the outcome of every action is known, so values, visits and gradients are exact sums."""

from agents.counterfactual.run import train

__all__ = ["train"]
