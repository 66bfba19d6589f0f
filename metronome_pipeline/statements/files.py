"""The files of a statement: how a line is written as CSV and as Parquet, its digest, and whether a file was changed.

Here: columns, formats, digests. Not here: what a statement says (``statement.py``). Lines are streamed both ways, so
that memory does not grow with the file.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from metronome_pipeline.errors import PipelineError

Format = Literal["csv", "parquet"]
Kind = Literal["text", "number", "instant", "whole", "switch"]
Cell = str | Decimal | datetime | int | bool | None
Columns = Mapping[str, Kind]
"""Name → what it holds, in the order of the file."""

FORMATS: tuple[Format, ...] = ("csv", "parquet")
VERSION = 1
_METADATA = b"metronome_pipeline.statement"
_TRAILER = ".json"
_BATCH = 5_000
_LONGEST_CELL = 16 * 1024 * 1024

# A spreadsheet takes a cell that begins so for a formula (a Japanese one also in full width), and a customer may call
# itself one. In text cells an apostrophe is put before it, and before one that stands there already, so that it can be
# taken away again.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "'")

# Numbers are text in Parquet too. They may have 100 digits at any scale (``wire.MOST_DIGITS``), decimal128 has 38 at
# one scale for the whole column, and the type of a column cannot depend on what a later line will hold. The one type
# that is always exact, and the same in every file of a folder, is text.
_ARROW: Mapping[Kind, Any] = MappingProxyType(
    {
        "text": pa.string(),
        "number": pa.string(),
        "instant": pa.timestamp("us", tz="UTC"),
        "whole": pa.int64(),
        "switch": pa.bool_(),
    }
)


class NotAStatement(PipelineError):
    """A file that is no statement of this version, or lacks what says so."""


@dataclass(frozen=True)
class Verified:
    """One file, read again. ``recorded`` and ``found`` are the digests that it carries and that its lines have."""

    path: Path
    recorded: str
    found: str
    lines: int
    facts: Mapping[str, Any]

    @property
    def unchanged(self) -> bool:
        """Whether every line and every fact is as it was written."""
        return self.recorded == self.found


class _Sink(Protocol):
    def put(self, line: Sequence[Cell], texts: Sequence[str | None]) -> None: ...

    def end(self, metadata: bytes) -> None: ...

    def close(self) -> None: ...


class StatementFile:
    """A file under way, made with ``statement_file``."""

    def __init__(self, columns: Columns, sink: _Sink) -> None:
        self._kinds = tuple(columns.values())
        self._sink = sink
        self._digest = _Digest(columns)

    def write(self, line: Sequence[Cell]) -> None:
        """Appends one line, with a cell for each column."""
        texts = [_text(cell) for cell in line]
        self._digest.add(texts)
        self._sink.put(line, texts)

    def finish(self, facts: Mapping[str, Any], *, made_at: datetime) -> str:
        """Ends the file with its facts, which are part of its digest, and returns that.

        Args:
            facts: JSON types only: whose statement it is, of which period, its totals.
            made_at: Not part of the digest: two statements that say the same have the same.
        """
        digest = self._digest.end(facts)
        recorded = {"digest": digest, "lines": self._digest.lines, "made_at": _text(made_at), "facts": facts}
        self._sink.end(json.dumps(recorded, ensure_ascii=False, indent=1).encode())
        return digest


@contextmanager
def statement_file(path: Path, columns: Columns, format_: Format) -> Iterator[StatementFile]:
    """A file that is there once it is finished, and not at all when something goes wrong on the way."""
    part = path.with_name(f".{path.name}.part")
    sink: _Sink = _ParquetSink(path, part, columns) if format_ == "parquet" else _CsvSink(path, part, columns)
    try:
        yield StatementFile(columns, sink)
    finally:
        sink.close()
        part.unlink(missing_ok=True)


def verify(path: Path, columns: Columns) -> Verified:
    """Reads a file again and computes its digest.

    Raises:
        NotAStatement: It cannot be read, has other columns, or lacks its digest.
    """
    lines = Lines(path, columns)
    digest = _Digest(columns)
    for texts in lines:
        digest.add(texts)
    recorded = lines.recorded
    return Verified(path, str(recorded.get("digest")), digest.end(recorded["facts"]), digest.lines, recorded["facts"])


class Lines:
    """The lines of a file as texts, one by one, and in ``recorded`` what stands behind them.

    Raises:
        NotAStatement: As ``verify``.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns
        try:
            self.recorded: Mapping[str, Any] = json.loads(self._metadata())
            complete = isinstance(self.recorded["facts"], dict) and isinstance(self.recorded["digest"], str)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise self._wrong(f"its digest cannot be read ({type(error).__name__})") from None
        if not complete:
            raise self._wrong("its digest cannot be read")

    def _metadata(self) -> bytes:
        if self._path.suffix == ".parquet":
            with pq.ParquetFile(self._path) as file:
                return bytes((file.metadata.metadata or {})[_METADATA])
        return self._path.with_name(self._path.name + _TRAILER).read_bytes()

    def __iter__(self) -> Iterator[Sequence[str | None]]:
        try:
            yield from self._parquet() if self._path.suffix == ".parquet" else self._csv()
        except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
            raise self._wrong(f"it cannot be read ({type(error).__name__})") from None

    def _csv(self) -> Iterator[Sequence[str | None]]:
        csv.field_size_limit(_LONGEST_CELL)
        kinds = tuple(self._columns.values())
        with self._path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            if tuple(next(rows, ())) != tuple(self._columns):
                raise self._wrong("its columns are not those of a statement")
            for row in rows:
                if len(row) != len(kinds):
                    raise self._wrong(f"line {rows.line_num} has {len(row)} cells")
                yield [_unguarded(cell, kind) or None for cell, kind in zip(row, kinds, strict=True)]

    def _parquet(self) -> Iterator[Sequence[str | None]]:
        with pq.ParquetFile(self._path) as file:
            if not file.schema_arrow.equals(_schema(self._columns)):
                raise self._wrong("its columns are not those of a statement")
            for batch in file.iter_batches(_BATCH):
                columns = [column.to_pylist() for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    yield [_text(cell) for cell in cells]

    def _wrong(self, reason: str) -> NotAStatement:
        return NotAStatement(f"{self._path} is no statement that can be verified: {reason}.")


class _Digest:
    """SHA-256 over the columns, each line and the facts, each as one line of compact JSON. Empty and null are one."""

    def __init__(self, columns: Columns) -> None:
        self.lines = 0
        self._hash = hashlib.sha256()
        self._put([f"statement {VERSION}", *columns])

    def add(self, texts: Sequence[str | None]) -> None:
        self.lines += 1
        self._put([text or None for text in texts])

    def end(self, facts: Mapping[str, Any]) -> str:
        self._put(facts)
        return self._hash.hexdigest()

    def _put(self, value: object) -> None:
        canonical = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        self._hash.update(canonical.encode() + b"\n")


class _CsvSink:
    """UTF-8, comma, a header line; beside it ``NAME.csv.json`` with the digest and the facts."""

    def __init__(self, path: Path, part: Path, columns: Columns) -> None:
        self._path, self._part, self._kinds = path, part, tuple(columns.values())
        self._file = part.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\r\n")
        self._writer.writerow(columns)

    def put(self, line: Sequence[Cell], texts: Sequence[str | None]) -> None:
        del line
        self._writer.writerow([_guarded(text or "", kind) for text, kind in zip(texts, self._kinds, strict=True)])

    def end(self, metadata: bytes) -> None:
        self._file.close()
        trailer = self._part.with_name(self._part.name + _TRAILER)
        trailer.write_bytes(metadata + b"\n")
        self._part.replace(self._path)
        trailer.replace(self._path.with_name(self._path.name + _TRAILER))

    def close(self) -> None:
        self._file.close()


class _ParquetSink:
    """Row groups of a few thousand lines; the digest and the facts are in the file's own metadata."""

    def __init__(self, path: Path, part: Path, columns: Columns) -> None:
        self._path, self._part, self._schema = path, part, _schema(columns)
        self._kinds = tuple(columns.values())
        self._waiting: list[Sequence[Cell]] = []
        self._writer = pq.ParquetWriter(part, self._schema, compression="zstd")

    def put(self, line: Sequence[Cell], texts: Sequence[str | None]) -> None:
        pairs = zip(line, texts, self._kinds, strict=True)
        self._waiting.append([text if kind in ("text", "number") else cell for cell, text, kind in pairs])
        if len(self._waiting) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._waiting, strict=True)
        arrays = [pa.array(cells, type=field.type) for cells, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._waiting.clear()

    def end(self, metadata: bytes) -> None:
        if self._waiting:
            self._flush()
        self._writer.add_key_value_metadata({_METADATA: metadata})
        self._writer.close()
        self._part.replace(self._path)

    def close(self) -> None:
        self._writer.close()


def _schema(columns: Columns) -> Any:
    return pa.schema([pa.field(name, _ARROW[kind]) for name, kind in columns.items()])


def plain(number: Decimal) -> str:
    """A number as it stands in every statement: to the last digit, without exponent and trailing zeros."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def instant(moment: datetime) -> str:
    """An instant as it stands in every statement: UTC, with microseconds only where there are some."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def _text(cell: Cell) -> str | None:
    if cell is None or cell == "":
        return None
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, Decimal):
        return plain(cell)
    return instant(cell) if isinstance(cell, datetime) else str(cell)


def _guarded(text: str, kind: Kind) -> str:
    return f"'{text}" if kind == "text" and text.startswith(_FORMULA) else text


def _unguarded(text: str, kind: Kind) -> str:
    return text[1:] if kind == "text" and text.startswith("'") else text
