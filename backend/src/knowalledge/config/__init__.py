"""Settings and models, typed and checked at start-up; the only reader of the environment."""
