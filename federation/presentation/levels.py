"""How far somebody looked whether a person stands before the camera, and not a picture of one.

ISO/IEC 30107-1 calls a photograph, a screen or a mask before the camera a *presentation attack*, and looking for it
presentation attack detection, PAD. Who looks decides what it is worth:

* a device that its holder controls stops who stands before it as it is, and nobody who runs a program of his own: he
  says that he looked. So `ON_DEVICE` is the device's own word, under its key;
* a device of the organisation's, which the public rules name by its certificate (`federation.rules.entries.Kiosk`), is
  under nobody else's control. `SUPERVISED` comes from there alone. A service that sees the answer of some device can
  never know what it did, so nothing that a device says makes it more than `ON_DEVICE`.
"""

from __future__ import annotations

from enum import Enum


class PadLevel(Enum):
    """What stood between a presentation attack and this comparison. The value stands in rules and assertions."""

    NONE = "none"
    ON_DEVICE = "on-device"
    SUPERVISED = "supervised"

    def reaches(self, least: PadLevel) -> bool:
        """Whether it is at least `least`.

        >>> PadLevel.SUPERVISED.reaches(PadLevel.ON_DEVICE), PadLevel.NONE.reaches(PadLevel.ON_DEVICE)
        (True, False)
        """
        order = list(PadLevel)
        return order.index(self) >= order.index(least)

    @property
    def text(self) -> str:
        """For people to read, in the statement of an assertion: never more than it is."""
        return {
            PadLevel.NONE: "nobody looked for a picture or a mask before the camera",
            PadLevel.ON_DEVICE: "the person's own device says that it looked for a picture or a mask before the camera",
            PadLevel.SUPERVISED: "a device of the organisation's looked for a picture or a mask before the camera",
        }[self]
