"""Generated parts of hand-written pages: what stands between a line <!-- MARK --> and a line <!-- end -->."""

import re
from collections.abc import Callable


def renew_marked(text: str, mark: str, make: Callable[[re.Match], str]) -> str:
    """`text` with every part between its marks renewed.

    Args:
        mark: a regular expression, whose groups `make` may read from 2 on.
        make: the new part, without its last line's end, for the match of a marked part.
    Raises:
        ValueError: there are no such marks.
    """
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no lines <!-- {mark} --> and <!-- end -->")
    return pattern.sub(lambda match: f"{match[1]}{make(match)}\n{match['end']}", text)
