"""The process that keeps a lab's services running: `python -m controller.lab.supervisor NAME LOCK`.

It runs the services that the manifest implies, restarts what ends, and obeys requests on its control socket: one line
of JSON each way for each connection, for example {"do": "stop", "service": "h1/agent"}. It runs in the fabric's
namespace, where the lab's removal finds it, and ends by itself when the manifest is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from controller import logs
from controller.errors import RefusedError
from controller.lab.services import services_of
from controller.lab.state import manifest_path, read_manifest

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path

    from controller.lab.services import Service

log = logging.getLogger(__name__)

_FIRST_BACKOFF_SECONDS: Final = 0.1
_LAST_BACKOFF_SECONDS: Final = 2.0
#: A service that ran for so long is restarted as if it had never ended.
_STEADY_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 5.0
_MANIFEST_CHECK_SECONDS: Final = 1.0


class Running:
    """One service: its process, restarted whenever it ends, until it is stopped."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._restarts = 0
        self._exit: int | None = None

    def describe(self) -> dict[str, object]:
        """Return the service's state for people and programs: `running`, `restarting` or `stopped`."""
        pid = None if self._process is None else self._process.pid
        state = "stopped" if self._task is None else "restarting" if pid is None else "running"
        return {"state": state, "pid": pid, "restarts": self._restarts, "last_exit": self._exit}

    def start(self) -> None:
        """Keep it running from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_running(), name=self._service.name)

    async def stop(self) -> None:
        """End it with everything it started; it is not restarted."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_running(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            started = time.monotonic()
            try:
                await self._run_once()
            except OSError as error:
                log.warning("service did not start", extra={"service": self._service.name, "reason": str(error)})
            backoff = _FIRST_BACKOFF_SECONDS if time.monotonic() - started > _STEADY_SECONDS else backoff
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)
            self._restarts += 1

    async def _run_once(self) -> None:
        with self._service.log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self._service.command,
                env=dict(self._service.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._process = process
        try:
            self._exit = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            # What it started ends with it, as under a service manager.
            _kill_group(process.pid)
            self._process = None
        log.warning("service ended", extra={"service": self._service.name, "exit": self._exit})


class Supervisor:
    """The services of one lab, and the control socket."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: dict[str, Running] = {}

    async def run(self) -> None:
        """Run until told to stop or until the lab is gone."""
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        server = await asyncio.start_unix_server(self._serve, control_socket(self._name))
        try:
            await self._reload()
            while not ended.is_set() and manifest_path(self._name).exists():
                try:
                    await asyncio.wait_for(ended.wait(), _MANIFEST_CHECK_SECONDS)
                except TimeoutError:
                    continue
        finally:
            server.close()
            await asyncio.gather(*(running.stop() for running in self._running.values()))

    async def _reload(self) -> None:
        """Run exactly what the manifest implies; what is running stays so."""
        layout = read_manifest(self._name)
        services = {} if layout is None else services_of(layout)
        for name in self._running.keys() - services.keys():
            await self._running.pop(name).stop()
        for name, service in services.items():
            if name not in self._running:
                self._running[name] = Running(service)
                self._running[name].start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await reader.readline())
            answer = await self._answer(request)
        except (ValueError, KeyError, TypeError, RefusedError) as error:
            answer = {"error": str(error)}
        writer.write(json.dumps(answer).encode() + b"\n")
        try:
            await writer.drain()
        except ConnectionError:
            pass  # whoever asked is gone
        finally:
            writer.close()

    async def _answer(self, request: dict[str, str]) -> dict[str, object]:
        match request["do"]:
            case "reload":
                await self._reload()
            case "start":
                self._service(request["service"]).start()
            case "stop":
                await self._service(request["service"]).stop()
            case "status":
                pass
            case other:
                raise RefusedError(f"{other!r} is no request; write status, reload, start or stop")
        return {"services": {name: running.describe() for name, running in self._running.items()}}

    def _service(self, name: str) -> Running:
        if name not in self._running:
            raise RefusedError(f"no service {name}; there are: {', '.join(self._running)}")
        return self._running[name]


def control_socket(name: str) -> Path:
    """Return the path of a lab's control socket."""
    return manifest_path(name).with_name("control.sock")


async def _end(process: Process) -> None:
    """Ask the process to end, and kill it if it does not in time."""
    try:
        process.terminate()
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except (ProcessLookupError, TimeoutError):
        return


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    """Run the supervisor of the lab named on the command line, which gives up the lock whose descriptor comes next."""
    os.close(int(sys.argv[2]))
    logs.configure("info")
    asyncio.run(Supervisor(sys.argv[1]).run())


if __name__ == "__main__":
    main()
