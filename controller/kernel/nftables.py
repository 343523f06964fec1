"""One nftables table of ours, in the namespace of this process, replaced as a whole by the program `nft`.

What `nft -f` reads is one transaction: between the old table and the new one no packet passes without either, and a
text with a mistake in it changes nothing (nft(8), "-f"). Tables of others are never written.
"""

from __future__ import annotations

import logging
from typing import Final

from controller.errors import PermanentError
from controller.kernel.programs import run_program

log = logging.getLogger(__name__)

_ERROR_LENGTH: Final = 300


class NftablesTable:
    """A table of the family inet by its name; it stays as it is when this object is gone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._body: str | None = None
        self._listing = ""

    async def read(self) -> str:
        """Return the table as nft shows it, without counters; empty if there is none, or no nft to have written it.

        Raises `TransientError` when nft does not end in time.
        """
        try:
            _, output, _ = await run_program(["nft", "-s", "list", "table", "inet", self._name])
        except FileNotFoundError:
            return ""
        return output

    async def set(self, body: str) -> None:
        """Make the table be as the text between its braces says, or not be if the text is empty.

        What is there already is not written again: the table is compared with how it looked when it was written last.
        Raises `PermanentError` when there is no nft or it refuses, `TransientError` when it does not end in time.
        """
        try:
            unchanged = body == self._body
            if unchanged and await self.read() == self._listing:
                return
            await self._write(body)
        except FileNotFoundError as error:
            if not body:
                return  # without nft we cannot have written a table
            raise PermanentError(
                "the packet filter needs the program nft, for pools with natOutgoing or IPv6, and for Docker's ports, "
                "internal networks, IPv6 and containers of several networks; install nftables, it is used from then on"
            ) from error
        self._listing = await self.read()
        self._body = body
        message = "packet filter repaired: others had changed our table" if unchanged else "packet filter written"
        log.log(logging.WARNING if unchanged else logging.INFO, message, extra={"table": self._name})

    async def _write(self, body: str) -> None:
        table = f"table inet {self._name}"
        # Declared first, so that there is something to delete.
        text = f"{table}\ndelete {table}\n" + (f"{table} {{\n{body}}}\n" if body else "")
        status, _, errors = await run_program(["nft", "-f", "-"], text)
        if status:
            raise PermanentError(f"nft refuses the {table}: {errors.strip()[:_ERROR_LENGTH]}")
