"""What MLflow accepts: keys, lengths, and the number of items in a request."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

MAX_PARAM_LENGTH = 6000
"""The length of a parameter's value, in characters."""
MAX_TAG_LENGTH = 8000
"""The length of a tag's value, in characters."""
MAX_PARAMS_PER_REQUEST = 100
MAX_METRICS_PER_REQUEST = 800  # MLflow accepts 1,000 items in total


def allowed_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that are not empty, cut to the length that MLflow allows."""
    return {key: value[:MAX_TAG_LENGTH] for key, value in tags.items() if value}


def allowed_keys(values: Mapping[str, T]) -> dict[str, T]:
    """The same values under distinct keys that MLflow allows; a field's name may be any text."""
    renamed: dict[str, T] = {}
    for key, value in values.items():
        sanitized = "".join(c if c.isalnum() or c in "_-. " else "_" for c in key)
        name = sanitized[:240]
        while name in renamed:
            name += "_"
        renamed[name] = value
    return renamed


def in_pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page
