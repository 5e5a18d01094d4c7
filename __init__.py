"""Tintype: snapshots of running containers, driven by the message bus."""

__version__ = "0.1.0"
