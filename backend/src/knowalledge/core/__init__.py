"""What every part shares: errors, priorities, the caller's identity and the clock. It imports no other package."""
