"""What these tests share: a few rendered frames and bags of them."""

from small_recordings import bags, sequence

__all__ = ["bags", "sequence"]
