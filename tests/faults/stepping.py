"""
Interrupt code at each step at which CPython runs signal handlers, one after the other.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import os
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import nameko_eventlog.delivery


_STEPPED = (os.path.dirname(nameko_eventlog.delivery.__file__), contextlib.__file__)


class Interrupted(BaseException):
    """
    What the signal handler raises.
    """


class Stepper:
    """
    Raise `Interrupted` at one step of the delivery's code.

    CPython looks for signals when a function begins, after a call, and when a loop begins again.

    Args:
        step: Which step, counted from 1.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._seen = 0
        self._last: dict[FrameType, str] = {}
        self._names: dict[CodeType, dict[int, str]] = {}
        self.where = ""
        """Where it was raised, if there was such a step."""

    def run(self, call: Callable[[], object]) -> None:
        """
        Run *call* up to that step.
        """
        before = sys.gettrace()
        gc.disable()  # what others have left would be stepped through as well
        sys.settrace(self._enter)
        try:
            call()
        except Interrupted:
            pass
        finally:
            sys.settrace(before)
            gc.enable()
            self._last.clear()  # what only an interrupted frame has held is let go of

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self.where and frame.f_code.co_filename.startswith(_STEPPED):
            frame.f_trace_opcodes = True
            return self._look
        return None

    def _look(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event != "opcode" or self.where:
            return self._look
        code = frame.f_code
        if code not in self._names:
            self._names[code] = {one.offset: one.opname for one in dis.get_instructions(code)}
        name = self._names[code].get(frame.f_lasti, "")
        before, self._last[frame] = self._last.get(frame, ""), name
        if before.startswith("CALL") or name in ("RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE"):
            self._seen += 1
            if self._seen == self._step:
                self.where = f"{code.co_filename}:{frame.f_lineno} {code.co_name}"
                raise Interrupted
        return self._look
