"""What every part shares: errors, contexts, the clock, settings, metrics, features. It imports no other package."""
