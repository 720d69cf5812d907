"""The list of anomalies: what the querier finds, and the numbers that people read in a list."""

import json
import math
import re

from helpers.scripts import query


def query_json(table, date, *options):
    """What the querier finds, in its order and in full precision: a list of dicts."""
    return json.loads(query(table, date, "--format", "json", *options).stdout)


def number(text):
    """The number that people read in the text, such as 1,234.50 or +3.2 %."""
    return float(re.sub("all|[,+% ]", "", text))


def rounding(column, value):
    """How far the text in a list may be from a value: half of the last digit that is shown."""
    if column in ("avg_trades", "std_trades") and value >= 99.95:
        return 0.5
    if column in ("avg_trades", "std_trades"):  # three digits
        return 0.5 * 10.0 ** (math.floor(math.log10(value)) - 2) if value else 0
    if column == "close_price" and 0 < value < 1:  # four digits
        return 0.5 * 10.0 ** (math.floor(math.log10(value)) - 3)
    return {"trades": 0, "times_normal": 0.05}.get(column, 0.005)


def is_shown(column, value, text):
    """Whether text is the value, rounded as the list rounds that column."""
    return abs(number(text) - value) <= rounding(column, value) * 1.000001
