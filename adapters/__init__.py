"""Adapters: one file for each outside thing, and an in-memory twin of every port."""

import warnings

# oslo.messaging imports oslo.service, which imports eventlet wherever that is installed, which then
# warns of its own end. Nothing here runs on eventlet, and no user of ours can act on the warning.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
