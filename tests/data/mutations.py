"""Random mutations of bytes and records, for fuzz tests."""

from __future__ import annotations

import random
import struct
from copy import deepcopy
from typing import Any


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Returns bytes with one or a few mistakes: bits, cuts, insertions, repeats, zeros, numbers that are too large."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place = min(int(draw.random() ** draw.choice((1, 3)) * len(found)), max(0, len(found) - 1))
        span = draw.choice((1, 2, 4, 16, 200))
        match draw.randrange(8) if found else 3:
            case 0 | 1:
                found[place] ^= 1 << draw.randrange(8)
            case 2:
                del found[place:]
            case 3:
                found[place:place] = draw.randbytes(span)
            case 4:
                found[place:place] = found[place : place + span]
            case 5:
                del found[place : place + span]
            case 6:
                found[place : place + span] = bytes(len(found[place : place + span]))
            case _:
                wrong = draw.choice(
                    (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\xff" * 8, struct.pack("<I", 1 << 31))
                )
                found[place : place + len(wrong)] = wrong
    return bytes(found)


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, float("inf"), float("nan"), "", "x" * 5000, "\ud800", "\0", [], {}, [[]],
    "<image>", "<video>", "<image>" * 50, "<|im_end|>", "<IMG_CONTEXT>", "system", "assistant", [None],
    {"role": "user"}, [[0, 1]], [[1, 0]], [[0, 10**400]], [[0, float("nan")]],
)  # fmt: skip
NAMES = ("messages", "text", "chosen", "rejected", "clips", "source", "role", "content", "id", "kinds")


def altered(value: Any, draw: random.Random) -> Any:
    """Returns a record with one change: another value or name, a repeated entry, or two swapped entries."""
    value = deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        holders: list[Any] = [value]
        for holder in holders:
            holders += [inner for inner in (holder.values() if isinstance(holder, dict) else holder)
                        if isinstance(inner, dict | list)]  # fmt: skip
        holder = draw.choice(holders)
        if isinstance(holder, dict):
            names = list(holder)
            match draw.randrange(4):
                case 0 if names:
                    holder[draw.choice(names)] = deepcopy(draw.choice(ODD))
                case 1 if names:
                    del holder[draw.choice(names)]
                case 2 if len(names) > 1:
                    one, other = draw.sample(names, 2)
                    holder[one], holder[other] = holder[other], holder[one]
                case _:
                    holder[draw.choice(NAMES)] = deepcopy(draw.choice(ODD))
        elif holder:
            place = draw.randrange(len(holder))
            match draw.randrange(4):
                case 0:
                    holder[place] = deepcopy(draw.choice(ODD))
                case 1:
                    holder.insert(place, deepcopy(holder[place]))
                case 2:
                    del holder[place]
                case _:
                    draw.shuffle(holder)
        else:
            holder.append(deepcopy(draw.choice(ODD)))
    return value
