"""Callback that ends a run when one of its ranks has died."""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import ref

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

_KNOWN, _DONE, _FAILED, _LOST = b"K", b"D", b"F", b"L"
"""First byte of a message: rank zero knows the rank; the rank ends as it should; it has raised an error; another rank
has ended, with the text."""


class RankMonitor(Callback):
    """Ends every rank of a run when one of them has died, where they would wait for it until a collective times out.

    Each rank keeps a TCP connection to rank zero, which the system closes when a process ends, however it ends; if a
    machine is lost, TCP's keepalive closes it within half a minute. Rank zero tells the other ranks. A rank that waits
    in a collective cannot raise an error: its process logs one line and exits with code 1. `fit` adds this callback
    by default.

    Args:
        patience: Seconds that a rank gets to raise an error of its own after another one has raised one.

    Attributes:
        lost: Which rank has ended; None: none has.
    """

    def __init__(self, patience: float = 30.0) -> None:
        self.patience = patience
        self.lost: str | None = None
        self._told: threading.Event | None = None  # `lost` is set
        self._ending: threading.Event | None = None  # the main thread has raised an error, or is done
        self._is_writing: Callable[[], bool] = bool
        self._lines: dict[int, socket.socket] = {}
        self._server: socket.socket | None = None
        self._rank, self._is_logged = 0, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connects the ranks, once."""
        if trainer.world_size == 1 or self._lines or self._server is not None:
            return
        self._rank, self.lost, self._is_logged = trainer.global_rank, None, False
        self._told, self._ending = threading.Event(), threading.Event()
        self._is_writing = lambda: getattr(trainer.strategy, "is_writing", False)
        # A worker process of a loader would keep the connections open after the death of its rank.
        os.register_at_fork(after_in_child=partial(_close, ref(self)))
        if self._rank == 0:
            self._server = socket.create_server(("", 0), backlog=trainer.world_size)
        port = 0 if self._server is None else self._server.getsockname()[1]
        port, token = trainer.strategy.broadcast((port, secrets.token_hex(16)))
        if self._server is not None:
            threading.Thread(target=self._watch_ranks, args=(self._server, token, self._ending), daemon=True).start()
            return
        environment = getattr(trainer.strategy, "cluster_environment", None)
        host = "127.0.0.1" if environment is None else environment.main_address
        try:
            line = socket.create_connection((host, port), timeout=60)
            _keep_alive(line)
            line.sendall(f"{token} {self._rank} {socket.gethostname()} {os.getpid()}\n".encode())
            if line.recv(1) != _KNOWN:
                raise OSError("it does not answer")
        except OSError as error:
            log.warning(
                "rank %d cannot connect to %s:%d, and notices no death of a rank: %s", self._rank, host, port, error
            )
            return
        line.settimeout(None)
        self._lines[0] = line
        threading.Thread(target=self._watch_zero, args=(line,), daemon=True).start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tells the other ranks of an error, unless it follows from the death of one of them."""
        if self._ending is None or self._told is None:
            return
        self._ending.set()
        if isinstance(exception, RuntimeError) and (self._lines or self._server is not None):
            self._told.wait(2.0)  # a broken collective is noticed as soon as the connection
        self._leave(_DONE if self.lost else _FAILED)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Disconnects the ranks at the end of a run."""
        if self._ending is not None:
            self._ending.set()
        self._leave(_DONE)

    def _leave(self, message: bytes) -> None:
        lines, self._lines = self._lines, {}
        server, self._server = self._server, None
        for line in lines.values():
            with suppress(OSError):
                line.sendall(message)
                line.shutdown(socket.SHUT_WR)
        if server is not None:
            with suppress(OSError):
                server.close()

    def _watch_zero(self, line: socket.socket) -> None:
        """Reads on another rank than zero until rank zero is done, or a rank is lost."""
        with suppress(OSError):
            message = line.recv(4096)
            if message[:1] == _DONE:
                return
            if message[:1] == _LOST:
                self._end(message[2:].decode(), has_died=message[1:2] == b"1")
                return
            if message[:1] == _FAILED:
                self._end("rank 0 has raised an error", has_died=False)
                return
        self._end("rank 0 has died", has_died=True)

    def _watch_ranks(self, server: socket.socket, token: str, ending: threading.Event) -> None:
        """Reads on rank zero until all ranks are done, or one is lost."""
        names: dict[socket.socket, str] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            while not ending.is_set():
                for key, _ in selector.select(1.0):
                    line = key.fileobj
                    assert isinstance(line, socket.socket)
                    if line is server:
                        self._accept(server, token, names, selector)
                        continue
                    message = _received(line)
                    selector.unregister(line)
                    if message[:1] != _DONE and not ending.is_set():
                        died = message[:1] != _FAILED
                        self._tell(f"{names[line]} has {'died' if died else 'raised an error'}", died, line)
                        return

    def _accept(
        self, server: socket.socket, token: str, names: dict[socket.socket, str], selector: selectors.BaseSelector
    ) -> None:
        with suppress(OSError, ValueError):
            line, _ = server.accept()
            line.settimeout(10.0)
            greeting = b""
            while not greeting.endswith(b"\n") and len(greeting) < 1024 and (byte := line.recv(1)):
                greeting += byte
            given, rank, host, process = greeting.decode().split()
            line.settimeout(None)
            if given == token:  # else not a rank of this run
                _keep_alive(line)
                line.sendall(_KNOWN)
                self._lines[int(rank)] = line
                names[line] = f"rank {rank} (process {process} on {host})"
                selector.register(line, selectors.EVENT_READ)

    def _tell(self, text: str, died: bool, lost: socket.socket) -> None:
        for line in list(self._lines.values()):
            if line is not lost:
                with suppress(OSError):
                    line.sendall(_LOST + (b"1" if died else b"0") + text.encode())
        self._end(text, died)

    def _log(self) -> None:
        if not self._is_logged:
            self._is_logged = True
            log.error("rank %d ends: %s", self._rank, self.lost)

    def _end(self, text: str, has_died: bool) -> None:
        """Ends this process, unless its main thread does that itself."""
        assert self._ending is not None
        assert self._told is not None
        if self._ending.is_set():
            return
        self.lost = f"{text}: this run cannot go on; go on from its last checkpoint (--ckpt_path)"
        if has_died:  # at once: a launcher may be about to kill this process too
            self._log()
        self._told.set()
        # Other ranks may be about to raise the same error. After a death, the main thread gets the time in which a
        # collective that the dead rank has left raises one.
        if self._ending.wait(2.0 if has_died else self.patience):
            return
        if not has_died:  # the rank that has raised an error finishes its part of a checkpoint first
            while self._is_writing():
                if self._ending.wait(1.0):
                    return
            self._log()
        for handler in (*log.handlers, *logging.getLogger("mmcomponents").handlers, *logging.getLogger().handlers):
            handler.flush()
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # the cursor, which a progress bar hides
        sys.stderr.flush()
        os._exit(1)


def _close(monitor: ref[RankMonitor]) -> None:
    """Closes the connections in a process that was forked."""
    found = monitor()
    if found is not None and found._told is not None:
        for line in (*found._lines.values(), *([] if found._server is None else [found._server])):
            line.close()


def end_with_lost_rank(trainer: Trainer) -> None:
    """Ends this process if the monitor of a run has noticed that another rank has ended.

    Raises:
        SystemExit: It has; one line is logged.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, RankMonitor) and callback.lost:
            callback._log()
            raise SystemExit(1)


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(1)
    except OSError:
        return b""


def _keep_alive(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not on every system
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
