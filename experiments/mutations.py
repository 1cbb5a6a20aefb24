"""Seeded damage: to bytes, to text, to values as JSON holds them, and to archives and headers from within."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
SIZES = (0, 1, -1, 2, 7, 127, 255, 256, 65_535, 2**16, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
ODD: tuple[Any, ...] = (
    *SIZES, None, True, "", "x", "\x1b[31m", "\u202e", "../../x", "9" * 40, 1e300, -0.5, [], {}, [[]], ["x"], [-1],
    {"x": 1}, [2**40, 2**40],
)  # fmt: skip


def pick(random: Random, values: Any) -> Any:
    """One of several values."""
    return values[int(random.integers(len(values)))]


def damaged(random: Random, content: bytes, other: bytes = b"") -> bytes:
    """Bytes with one to three faults: flipped, cut, written over, left out, doubled, or spliced with another file."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        if not data:
            return bytes(data)
        at = int(random.integers(len(data)))
        # Headers stand at the beginning, and in zip archives at the end.
        at = pick(random, (at, at, at % 512, max(0, len(data) - 1 - at % 512)))
        length = int(pick(random, (1, 2, 4, 8, 64, 1024)))
        match int(random.integers(9)):
            case 0 | 1:
                for place in random.integers(at, min(len(data), at + 64), size=int(pick(random, (1, 1, 8)))):
                    data[place] ^= 1 << int(random.integers(8))
            case 2:
                del data[at:]
            case 3:
                data[at : at + length] = random.bytes(length)
            case 4:
                data[at : at + length] = bytes([pick(random, (0, 255, 127, 32))]) * length
            case 5:
                order, code = pick(random, "<>"), pick(random, "IQH")
                word = struct.pack(f"{order}{code}", pick(random, SIZES) % 2 ** (8 * struct.calcsize(code)))
                data[at : at + len(word)] = word
            case 6:
                del data[at : at + length]
            case 7:
                data[at:at] = data[at : at + length]
            case 8:
                source = other or content
                start = int(random.integers(len(source)))
                data[at : at + length] = source[start : start + length]
    return bytes(data)


def odd_value(random: Random, value: Any) -> Any:
    """A value of JSON with one to three of its parts replaced, left out, renamed, doubled or reordered."""
    for _ in range(int(random.integers(1, 4))):
        value = _changed(random, value)
    return value


def _changed(random: Random, value: Any) -> Any:
    inner = isinstance(value, (dict, list)) and len(value) > 0
    if not inner or random.random() < 0.05:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and random.random() < 0.3:
            return pick(random, (-value, value * 1000, value + 1, float(value), str(value), [value]))
        return pick(random, ODD)
    if isinstance(value, dict):
        key = pick(random, list(value))
        action = int(random.integers(10))
        if action == 0:
            return {k: v for k, v in value.items() if k != key}
        if action == 1:
            return {(f"{k}x" if k == key else k): v for k, v in value.items()}
        if action == 2:
            return {**value, "odd": pick(random, ODD)}
        return {k: _changed(random, v) if k == key else v for k, v in value.items()}
    at, action = int(random.integers(len(value))), int(random.integers(10))
    if action == 0:
        return value[:at] + value[at + 1 :]
    if action == 1:
        return [*value, value[at]]
    if action == 2:
        return [value[i] for i in random.permutation(len(value))]
    return [_changed(random, v) if i == at else v for i, v in enumerate(value)]


def odd_text(random: Random, text: str) -> str:
    """Text with lines or words replaced, left out, doubled or moved."""
    lines = text.split("\n")
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(len(lines)))
        words = lines[at].split(" ")
        match int(random.integers(7)):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, pick(random, lines))
            case 2:
                words[int(random.integers(len(words)))] = json.dumps(pick(random, ODD))
                lines[at] = " ".join(words)
            case 3:
                lines[at] = lines[at][: int(random.integers(len(lines[at]) + 1))]
            case 4:
                lines[at] = f"{lines[at]} {pick(random, ('[', ']', '{', '=', chr(0), chr(34) * 3, '1' * 5000))}"
            case 5:
                lines.insert(at, f"x{random.integers(99)} = {pick(random, ('[' * 3000, '1e999', '0x' + 'f' * 9999))}")
            case 6:
                lines[at] = lines[at].translate({ord(pick(random, "abcdeiost0159")): pick(random, "\u202e\x1bZ-7.")})
        lines = lines or [""]
    return "\n".join(lines)


def odd_zip(random: Random, content: bytes, change: Callable[[Random, str, bytes], bytes]) -> bytes:
    """A zip archive with one member changed, renamed or left out, and sums that are right again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
        method = archive.infolist()[0].compress_type
    name = pick(random, list(members))
    action = int(random.integers(12))
    if action == 0:
        del members[name]
    elif action == 1:
        members = {(pick(random, ("../x", "x", name.upper())) if n == name else n): c for n, c in members.items()}
    else:
        members[name] = change(random, name, members[name])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for each, inner in members.items():
            archive.writestr(each, inner)
    return packed.getvalue()


def odd_safetensors(random: Random, content: bytes) -> bytes:
    """A safetensors file whose header says something else, or the text within its metadata does."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    about = header.get("__metadata__", {})
    key = next((key for key, text in about.items() if text.startswith("{")), None)
    if key is not None and random.random() < 0.8:
        about[key] = json.dumps(odd_value(random, json.loads(about[key])))
    else:
        header = odd_value(random, header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
