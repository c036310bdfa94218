"""The decision process over token graphs: all states, actions, outcomes, costs and sights of an answer, where the link stands still."""
