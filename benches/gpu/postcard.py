"""Reads postcard, the encoding of what a package holds. Standard library only.

Comes in: bytes. Goes out: values, one call for each. What holds: reading past the end is an error. Deliberately not done: writing.
"""

import struct


class Malformed(Exception):
    """The bytes are not what the reader expects."""


class Reader:
    """A place in bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        """The next n bytes."""
        if n > len(self.data) - self.at:
            raise Malformed(f"{n} bytes wanted at {self.at} of {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]

    def byte(self):
        """A `u8`."""
        return self.take(1)[0]

    def bool(self):
        """A `bool`."""
        value = self.byte()
        if value > 1:
            raise Malformed(f"{value} is no truth value")
        return value == 1

    def unsigned(self):
        """Any unsigned integer of more than 8 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise Malformed("a number of more than 64 bits")

    def signed(self):
        """Any signed integer of more than 8 bits."""
        value = self.unsigned()
        return (value >> 1) ^ -(value & 1)

    def float(self):
        """An `f64`."""
        return struct.unpack("<d", self.take(8))[0]

    def text(self):
        """A string."""
        return self.take(self.unsigned()).decode()

    def bytes(self):
        """A `Vec<u8>`."""
        return self.take(self.unsigned())

    def list(self, item):
        """A sequence; `item` reads one."""
        return [item() for _ in range(self.unsigned())]

    def option(self, item):
        """An option."""
        return item() if self.bool() else None

    def variant(self, names):
        """Which variant of an enum follows."""
        n = self.unsigned()
        if n >= len(names):
            raise Malformed(f"variant {n} of {len(names)}: {', '.join(names)}")
        return names[n]

    def end(self):
        """Nothing is left."""
        if self.at != len(self.data):
            raise Malformed(f"{len(self.data) - self.at} bytes are left")
