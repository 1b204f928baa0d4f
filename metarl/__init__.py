"""metarl: robots that adapt in seconds instead of being retrained."""

__version__ = "0.1.0"
