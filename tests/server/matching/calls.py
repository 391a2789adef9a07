"""Calls that are noted in the place of what they would do."""

from __future__ import annotations

import asyncio


class Calls(list):
    """What was called, in order, with what. Whatever is named in `failing` raises once it is called."""

    def __init__(self):
        super().__init__()
        self.failing = {}

    def note(self, *call):
        self.append(call)
        if call[0] in self.failing:
            raise self.failing[call[0]]

    def of(self, name, answer=None):
        def called(*arguments, **named):
            self.note(name, *arguments, *named.values())
            return answer

        return called

    def later(self, name, answer=None):
        async def called(*arguments, **named):
            await asyncio.sleep(0)
            self.note(name, *arguments, *named.values())
            return answer

        return called


class Disk:
    """A database's own threads without threads: what is asked is done at once, and whether it has to last is noted."""

    def __init__(self, calls):
        self.calls = calls

    async def __call__(self, call, *arguments):
        return call(*arguments)

    async def step(self, call, *arguments, lasts):
        self.calls.note("lasts" if lasts else "need not last")
        return call(*arguments)
