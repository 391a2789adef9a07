"""The constants of a TensorFlow Lite model, in the order in which its operators use them. Nothing of it is run.

A .tflite file is a FlatBuffer: tables that say at which distance each of their fields lies. These few lines follow the
four kinds of tables that lead to the weights (schema.fbs of TensorFlow Lite, version 3).

Only files whose digest is known are read (see `federation.recognition.mobilefacenet`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MODEL_SUBGRAPHS, _MODEL_BUFFERS = 2, 4
_GRAPH_TENSORS, _GRAPH_OPERATORS = 0, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER = 0, 1, 2
_OPERATOR_INPUTS = 1
_BUFFER_DATA = 0
_FLOAT32: Final = 0


def constants(model: bytes) -> list[NDArray[np.float32]]:
    """Every float32 constant that an operator of the first graph takes, in the order of operators and inputs.

    Args:
        model: a .tflite file.

    Raises:
        ValueError, IndexError, struct.error: it is none.
    """
    return list(_Reader(model).constants())


class _Reader:
    """Follows offsets in a FlatBuffer."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def _number(self, place: int) -> int:
        return int(struct.unpack_from("<i", self._data, place)[0])

    def _follow(self, place: int) -> int:
        return place + self._number(place)

    def _field(self, table: int, field: int) -> int | None:
        """Where a field of `table` lies; None when it has its default."""
        layout = table - self._number(table)
        entry = 4 + 2 * field
        if entry >= struct.unpack_from("<H", self._data, layout)[0]:
            return None
        distance = struct.unpack_from("<H", self._data, layout + entry)[0]
        return table + distance if distance else None

    def _vector(self, table: int, field: int) -> tuple[int, int]:
        """(place of the first element, how many there are)."""
        place = self._field(table, field)
        if place is None:
            return 0, 0
        start = self._follow(place)
        return start + 4, self._number(start)

    def _tables(self, table: int, field: int) -> list[int]:
        start, count = self._vector(table, field)
        return [self._follow(start + 4 * index) for index in range(count)]

    def _numbers(self, table: int, field: int) -> tuple[int, ...]:
        start, count = self._vector(table, field)
        return struct.unpack_from(f"<{count}i", self._data, start)

    def constants(self) -> Iterator[NDArray[np.float32]]:
        root = self._follow(0)
        buffers = self._tables(root, _MODEL_BUFFERS)
        graph = self._tables(root, _MODEL_SUBGRAPHS)[0]
        tensors = self._tables(graph, _GRAPH_TENSORS)
        for operator in self._tables(graph, _GRAPH_OPERATORS):
            for index in self._numbers(operator, _OPERATOR_INPUTS):
                tensor = tensors[index]
                kind, buffer = self._field(tensor, _TENSOR_TYPE), self._field(tensor, _TENSOR_BUFFER)
                start, length = self._vector(buffers[self._number(buffer) if buffer else 0], _BUFFER_DATA)
                if length and (kind is None or self._data[kind] == _FLOAT32):
                    values = np.frombuffer(self._data, "<f4", length // 4, start)
                    yield values.reshape(self._numbers(tensor, _TENSOR_SHAPE))
