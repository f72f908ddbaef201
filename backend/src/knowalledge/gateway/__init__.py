"""One request from its dialect to a provider and back: prompts, routing, execution, streams."""
