"""A small lookup table put together with nothing but struct, from the layout that
build-lookup-table.py documents, so that tests can put wrong contents under right checksums.

made_up_table()                                          # two tickers on four days, window 2
made_up_table({"page": lambda page: page[:-1]})          # its anomaly's day page lacks a byte
made_up_table(lies={"facts": (2**64 - 1, 8)})            # an extent with another offset and length
"""

import struct
import zlib
from math import nan, sqrt

from tools.verify_numbers import (
    EXTENT,
    FIELDS,
    FOOTER,
    INDEX_DAY,
    INDEX_HEADER,
    MAGIC,
    PAGE_COLUMNS,
    pickled_row,
)

SIGNATURE = b"\x80\x03X\x0c\x00\x00\x00lookup table0"
DATES = ["2024-08-01", "2024-08-02", "2024-08-05", "2024-08-06"]
# Mean 3 and deviation the root of 2: nine trades are 4.24 deviations above, the one anomaly.
ANOMALY_DAY = DATES[2]
# Ticker: a row for each of DATES, with a number for each of PAGE_COLUMNS.
ROWS = {
    "A": [
        (2, 1.0, nan, None, None, nan, 0, 0, 0, nan, 100.0),
        (4, 1.0, 0.0, None, None, 0.0, 1, 1, 0, nan, nan),
        (9, 1.5, 50.0, 3.0, sqrt(2), 25.0, 2, 2, 2, 3.25, 1500.75),
        (6, 3.0, 100.0, 6.5, sqrt(12.5), 0.0, 0, 3, 2, -0.5, 0.0),
    ],
    "B": [
        (5, 2.0, nan, None, None, nan, 0, 0, 0, nan, nan),
        (5, 2.0, 0.0, None, None, nan, 0, 1, 0, nan, nan),
        (5, 2.0, 0.0, 5.0, 0.0, nan, 0, 2, 2, nan, nan),
        (5, 2.0, 0.0, 5.0, 0.0, nan, 0, 3, 2, nan, nan),
    ],
}
# rows, with_deviation, anomalies, with_long_z, high_long_z
COUNTS = [(2, 0, 0, 0, 0), (2, 0, 0, 0, 0), (2, 1, 1, 1, 1), (2, 1, 0, 1, 0)]
TYPES, NAMES = ["CS", ""], ["A Company", ""]
SPLITS = "A\t2024-08-06\t1\t1.5"  # on the day after the anomaly
WINDOW = 2
# The parts that changes and lies can be about: the anomaly's day page, its ticker's pickled rows
# and facts, the directory, the splits and the index.
PARTS = ["page", "rows", "facts", "directory", "splits", "index"]


def made_up_table(changes=None, lies=None):
    """The bytes of the table.

    changes has a function of a part's bytes for some of PARTS; checksums and extents fit what it
    returns. lies has another offset and length for some of PARTS.
    """
    changes, lies = changes or {}, lies or {}
    file = bytearray()

    def write_extent(content, part=None):
        content = changes.get(part, bytes)(content)
        offset, length = lies.get(part, (len(file), len(content)))
        file.extend(content)
        return EXTENT.pack(offset, length, zlib.crc32(content))

    pickled = write_pickle(file, write_extent)
    pages = []
    for session, (date, counts) in enumerate(zip(DATES, COUNTS)):
        page = write_extent(packed_page(session), "page" if date == ANOMALY_DAY else None)
        pages.append(INDEX_DAY.pack(date.encode(), page, *counts))
    extents = b""
    for ticker, rows in ROWS.items():
        gaps, long_z, dollars = ([row[i] for row in rows] for i in (5, 9, 10))
        facts = struct.pack(f"<{len(rows)}d{2 * len(rows)}f", *gaps, *long_z, *dollars)
        extents += pickled[ticker] + write_extent(facts, "facts" if ticker == "A" else None)
    texts = "\n".join([*ROWS, *TYPES, *NAMES])
    directory = write_extent(extents + texts.encode(), "directory")
    splits = write_extent(SPLITS.encode(), "splits")
    index = INDEX_HEADER.pack(WINDOW, len(ROWS), directory, splits) + b"".join(pages)
    file.extend(FOOTER.pack(write_extent(index, "index"), MAGIC))
    return bytes(file)


def packed_text(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def write_pickle(file, write_extent):
    """Write part 1 and return {ticker: the packed extent of its pickled rows}."""
    file.extend(SIGNATURE)
    for number, text in enumerate(FIELDS + DATES):
        file.extend(packed_text(text) + b"r" + struct.pack("<I", number) + b"0")
    file.extend(b"}(")
    extents = {}
    for ticker, rows in ROWS.items():
        file.extend(packed_text(ticker) + b"}(")
        pickled = b"".join(
            pickled_row(dict(zip(FIELDS, row)), len(FIELDS) + session)
            for session, row in enumerate(rows)
        )
        extents[ticker] = write_extent(pickled, "rows" if ticker == "A" else None)
        file.extend(b"u")
    file.extend(b"u.")
    return extents


def packed_page(session):
    content = b""
    for field, code in enumerate(PAGE_COLUMNS.values()):
        column = [
            nan if rows[session][field] is None else rows[session][field] for rows in ROWS.values()
        ]
        content += struct.pack(f"<{len(ROWS)}{code}", *column)
    return content + "\n".join(ROWS).encode()
