"""Training of controllers, whatever the agent: one recipe, one run folder, one way to go on and to stop.

What does not live here: the all-action gradients of the agent `counterfactual` (agents/counterfactual).
"""
