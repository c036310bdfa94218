"""Controllers that learn while they answer, from what a device sees of each chunk: times, bytes, energy, acceptance.

Never from the task's score, which no device knows. What they have learnt is theirs, goes on from answer to answer, and may be kept
as plain data (agents/rule_file.py).
"""

from agents.bandits.arms import Arms, ArmState, EXP3Spec, UCBSpec
from agents.bandits.linucb import LinUCB, LinUCBState

__all__ = ["ArmState", "Arms", "EXP3Spec", "LinUCB", "LinUCBState", "UCBSpec"]
