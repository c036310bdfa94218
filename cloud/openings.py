"""Sessions as they begin and end: opened once by each key, ended where their id reached nobody, closed.

What does not live here: messages and statuses (service.py), the table (sessions.py), what a session is asked (verify.py, forward.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from cloud.cost import Cost
from cloud.engine.base import Engine
from cloud.identity import NOBODY, Client
from cloud.sessions import Session, SessionTable, check_key, check_session_id
from cloud.shared import Shared
from runtime.errors import SessionLostError, SyneraError, TokenizerMismatchError
from runtime.settings import shown

_UNKNOWN = "its id reached nobody"  # how a session ends


@dataclass(slots=True, eq=False)
class _Opening:
    """A session that is being opened, or has been."""

    work: Shared[Session]
    claims: int = 0
    """Callers that wait for its id, or were given it."""


class Openings:
    """Opens and closes sessions of one engine. All methods run on the engine's event loop.

    What nobody waits for any more is dropped: an opening, a session whose id reached nobody.
    """

    def __init__(self, engine: Engine, table: SessionTable, tokenizer_hash: str) -> None:
        self.info, self.tokenizer_hash = engine.info, tokenizer_hash
        self._engine, self._table = engine, table
        # As long as the session lives, or is being opened: by its owner's name and key, and by its id.
        self._keyed: dict[tuple[str, str], _Opening] = {}
        self._openings: dict[str, _Opening] = {}

    async def open(self, tokenizer_hash: str, key: str = "", client: Client = NOBODY) -> str:
        """Start a session; return its id, which counts as received unless `unsent` says otherwise.

        Args:
            tokenizer_hash: the device's.
            key: a repeat with the same one gets the same session, as long as that lives; empty gets another each time.
            client: who asks; the session and the key are its own.

        Raises:
            TokenizerMismatchError: the device's tokens would mean something else here.
            CloudRejectedError: that is no key.
            CloudBusyError: too many sessions.
            CloudUnavailableError: the engine has stopped or died.

        Cancellation: the session ends, or does not come to be, unless its id is another's, too.
        """
        if tokenizer_hash != self.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the device's tokenizer is {shown(tokenizer_hash)}, that of the cloud's {self.info.model} is {self.tokenizer_hash!r}; use models that share one"
            )
        if key:
            check_key(key)
        self._table.sweep()
        opening = self._keyed.get((client.name, key)) if key else None
        if opening is None or opening.work.dropped:
            opening = self._begin_opening(client, key)
        opening.claims += 1
        try:
            session = await opening.work.result()
        except BaseException:
            self._give_up(opening)
            raise
        if session is None:
            raise lost("it ended while it was opened")
        if opening.claims > 1:
            self._table.renew(session, used=False)
        return session.session_id

    def unsent(self, session_id: str) -> None:
        """Take back that an id was received: its caller went away before it could be sent."""
        if (opening := self._openings.get(session_id)) is not None:
            self._give_up(opening)

    def _begin_opening(self, client: Client, key: str) -> _Opening:
        session_id = ""

        def ended(session: Session | None) -> None:
            if session is None:
                self._forget_key(client, key, opening)
            elif not opening.claims:
                self._table.remove(session, _UNKNOWN)

        def left() -> None:
            del self._openings[session_id]
            self._forget_key(client, key, opening)

        async def work() -> Session:
            nonlocal session_id
            session = await self._table.open(client, left)
            session_id = session.session_id
            self._openings[session_id] = opening
            session.running += 1  # nobody takes its place before the engine has it
            try:
                await self._engine.open(session.session_id, client.account)
            except BaseException:
                self._table.remove(session, None)
                raise
            finally:
                session.running -= 1
            return session

        opening = _Opening(Shared(work(), ended))
        if key:
            self._keyed[client.name, key] = opening
        return opening

    def _forget_key(self, client: Client, key: str, opening: _Opening) -> None:
        if self._keyed.get((client.name, key)) is opening:  # and not another, begun since
            del self._keyed[client.name, key]

    def _give_up(self, opening: _Opening) -> None:
        """A caller is gone. Who has asked for something of the session got its id in some other way."""
        opening.claims -= 1
        if not opening.claims and opening.work.over and (session := opening.work.value) is not None and not session.asked:
            self._table.remove(session, _UNKNOWN)

    async def close(self, session_id: str, key: str = "", client: Client = NOBODY) -> Cost:
        """Release a session and end its work; return what it cost, nothing when the client has none such (any more).

        Args:
            session_id: its id.
            key: that of its Open, for who never got the id; the id is then not looked at.
            client: who asks.

        Raises:
            CloudRejectedError: that is no session's id, or no key.
        """
        if key:
            check_key(key)
            opening = self._keyed.get((client.name, key))
            if opening is None:
                return Cost()
            try:
                session = await opening.work.result()
            except SyneraError:
                return Cost()  # it did not come to be
            if session is None:
                return Cost()
            session_id = session.session_id
        check_session_id(session_id)
        return await self._table.close(session_id, client.name)


def lost(why: str) -> SessionLostError:
    """The error of who asks for a session that has ended."""
    return SessionLostError(f"no session: {why}; open a new one and send the whole history")
