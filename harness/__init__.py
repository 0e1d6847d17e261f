"""armbench: what a server can do for Qwen models, and what it costs there."""

__version__ = "0.1.0"
