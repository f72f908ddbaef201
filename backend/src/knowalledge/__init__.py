"""A quota-aware gateway in front of Gemini, Vertex AI and OpenAI-compatible models."""

__version__ = "0.1.0"
