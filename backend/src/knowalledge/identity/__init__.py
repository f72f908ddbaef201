"""Who calls, and how often one client may call."""
