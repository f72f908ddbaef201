"""The history of this capability's tables, one file a step."""
