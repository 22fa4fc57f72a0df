"""Memory brokers by name, so that a URL means the same one everywhere in a process."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from taskyard.shared.adapters.memory.broker import MemoryBroker
from taskyard.shared.adapters.memory.state import MemoryState

if TYPE_CHECKING:
    from taskyard.shared.broker import BrokerOptions

_states: Final[dict[str, MemoryState]] = {}
_states_lock: Final = Lock()


def connect(url: str, options: BrokerOptions) -> MemoryBroker:
    """Return a handle on the memory broker that the URL names (`memory://name`).

    Args:
        url: handles of one name share one state, within this process.
        options: the namespace keeps states of one name apart.

    """
    return MemoryBroker(state_of(urlsplit(url).netloc, namespace=options.namespace))


def state_of(name: str, *, namespace: str = "taskyard") -> MemoryState:
    """Return the state that `memory://<name>` means in this process."""
    with _states_lock:
        return _states.setdefault(f"{namespace}/{name}", MemoryState())
