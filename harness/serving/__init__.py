"""An OpenAI-compatible server in front of a pinned engine with continuous batching."""
