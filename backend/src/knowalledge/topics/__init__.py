"""The knowledge API: questions about a topic, their prompts, and popular answers kept warm."""
