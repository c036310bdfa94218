"""Who decides: rules, learned controllers, their training, evaluation and the deployable bundle."""
