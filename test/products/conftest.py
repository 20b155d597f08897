"""What these tests share: a few rendered frames and bags of them, and a browser."""

from browsing import browse
from small_recordings import bags, sequence

__all__ = ["bags", "browse", "sequence"]
