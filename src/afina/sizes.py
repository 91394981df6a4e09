"""Sizes in words: "8GiB". Knows what a byte is, and not what has so many."""

from __future__ import annotations

from pydantic import ByteSize, TypeAdapter, ValidationError

from afina.errors import InvalidStudy


def read_size(text: str, what: str = "memory") -> int:
    """Bytes of a size such as "8GiB", "512 MiB" or "16GB". Raises InvalidStudy, also where there is no unit."""
    try:
        size = TypeAdapter(ByteSize).validate_python(text.strip())
    except ValidationError:
        size = ByteSize(0)
    if size == 0 or not text.strip()[-1].isalpha():
        raise InvalidStudy(
            f"{what} {text!r}: expected a size with its unit, such as 8GiB, 512MiB or 16GB.",
            code="option.invalid",
            option=what,
            found=text,
        )
    return int(size)
