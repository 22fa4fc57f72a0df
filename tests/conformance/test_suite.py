"""The suite itself: nothing in it may hide something else in it."""

from __future__ import annotations

from collections import Counter

from taskyard.shared.conformance import BlockedSuite, BrokerSuite


def test_no_room_hides_another() -> None:
    """Rooms are mixed into one class, so a name that two of them use would run only once."""
    rooms = [room for room in (*BrokerSuite.__mro__, BlockedSuite) if room is not object]
    names = Counter(name for room in rooms for name in vars(room) if name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) > 80
