"""One provider quota shared by all replicas: ledger, waiting room, learnt limits, and the planner."""
