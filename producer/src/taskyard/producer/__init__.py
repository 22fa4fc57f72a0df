"""The SDK with which services publish jobs."""

from __future__ import annotations

from taskyard.producer.async_producer import AsyncProducer
from taskyard.producer.handle import AsyncHandle, Handle
from taskyard.producer.producer import Producer

__all__ = ["AsyncHandle", "AsyncProducer", "Handle", "Producer"]
