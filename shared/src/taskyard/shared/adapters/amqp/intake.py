"""Deliveries of one channel, and which of them are not settled yet."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from taskyard.shared.adapters.amqp.frames import ack_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.envelope import Envelope


class Grant:
    """A part of a consumer's credit: what one consumer tag holds unsettled."""

    __slots__ = ("credit", "tag", "unsettled")

    def __init__(self, credit: int) -> None:
        """Grant `credit` deliveries."""
        self.credit = credit
        self.tag = ""
        self.unsettled = 0


class Token:
    """What settles one delivery.

    Attributes:
        intake: where it arrived.
        tag: its delivery tag; 0 once it is settled.
        grant: whose credit it uses.
        at_ms: when it arrived.
        published: envelopes of a settlement that were confirmed while the rest of it was not, so
            that settling again does not publish them twice.

    """

    __slots__ = ("at_ms", "grant", "intake", "published", "tag")

    def __init__(self, intake: Intake, tag: int, grant: Grant | None, at_ms: int) -> None:
        """Keep its parts."""
        self.intake = intake
        self.tag = tag
        self.grant = grant
        self.at_ms = at_ms
        self.published: tuple[Envelope, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether the delivery can still be settled."""
        return self.tag != 0 and self.intake.alive


class Intake:
    """Keeps the tags of a channel in order, and acknowledges them in as few frames as is right.

    Attributes:
        on_settled: is called after each batch of acks.
        patience_ms: how long the broker waits for an ack; None means for ever.

    """

    __slots__ = ("_channel", "_done", "_order", "on_settled", "patience_ms")

    def __init__(self, channel: Channel, *, patience_ms: int | None = None) -> None:
        """Begin with a channel on which nothing has been delivered."""
        self._channel = channel
        self._order: deque[int] = deque()
        self._done: set[int] = set()
        self.patience_ms = patience_ms
        self.on_settled: Callable[[], None] | None = None

    @property
    def alive(self) -> bool:
        """Whether acks still reach the broker that delivered."""
        return self._channel.is_open

    @property
    def unsettled(self) -> int:
        """How many deliveries are not settled."""
        return len(self._order) - len(self._done)

    def arrived(self, tag: int, *, grant: Grant | None = None, at_ms: int = 0) -> Token:
        """Take note of a delivery, in the order of arrival."""
        self._order.append(tag)
        if grant is not None:
            grant.unsettled += 1
        return Token(self, tag, grant, at_ms)

    def ack(self, tokens: Sequence[Token]) -> None:
        """Acknowledge deliveries of this channel in one write.

        One frame for the run that begins at the lowest unsettled tag, one for each of the others:
        a multiple ack reaching over a running job would give that job up too.
        """
        tags = [token.tag for token in tokens]
        order, done = self._order, self._done
        done.update(tags)
        reached = 0
        while order and order[0] in done:
            reached = order.popleft()
            done.remove(reached)
        # The frame must name a tag that is still open, or the broker closes the channel.
        upto = max((tag for tag in tags if tag <= reached), default=0)
        data = ack_frames(self._channel.number, upto, [tag for tag in tags if tag > reached])
        self._channel.connection.emit(data)
        for token in tokens:
            token.tag = 0
            if token.grant is not None:
                token.grant.unsettled -= 1
        if self.on_settled is not None:
            self.on_settled()
