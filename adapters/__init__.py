"""Adapters: one file for each outside thing, and an in-memory twin of every port."""

import logging
import warnings

from oslo_service import backend

# oslo.messaging imports oslo.service, whose default backend is eventlet. Nothing here runs on
# eventlet, so the other backend is chosen before anybody imports oslo.messaging. futurist beneath
# it still imports eventlet, which warns of its own end: no user of ours can act on that.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
logging.getLogger("oslo_service.backend").setLevel(logging.WARNING)  # it announces each load
backend.init_backend(backend.BackendType.THREADING)
