"""Adapters to Gemini, Vertex AI, OpenAI-compatible servers and the embedded model."""
