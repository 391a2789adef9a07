"""Secure aggregation for tens of organisations: the coordinator learns a sum and nothing else.

Theory of operation
-------------------
After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), figure 4, with
the consistency check for a lying coordinator. Each member u sends its vector plus a mask of its own, PRG(b_u), plus one
mask for each pair, +PRG(s_uv) or -PRG(s_uv). Masks between two survivors cancel. Of everybody who dealt shares, a
quorum then opens exactly one secret: b_u of those whose vector arrived, or the key behind all s_uv of those who left.

* **Never both.** Both secrets of one member would lay its vector bare. A node opens shares once, for one survivor set,
  and only after it saw a quorum's signatures on that set and on the list of dealers. Two quorums share an honest
  member, because a quorum is more than (n + colluders) / 2, and an honest member signs once.
* **No man in the middle.** Fresh keys are signed with long-lived ones from a roster that does not come from the
  coordinator. The signature covers the session's digest: run, release, plan, roster, size and numbers of failures.
* **No replay.** Every later message carries the digest of the key list, which holds a fresh key of every member. Shares
  are encrypted under it, so a member whose keys are replayed deals no shares and masks nothing.
* **Noise survives failures.** Members add noise sized for ``n - dropouts - colluders`` of them (`Session.noise_share`),
  and nobody lets a sum be opened over fewer than ``n - dropouts``.

What it does not do: a member can put anything into its vector and spoil the sum; only the total's length is checked. A
member that deals false shares ends the round, with its name. Nothing hides who takes part.
"""

from federation.secagg.coordinator import ASKED, Coordinator
from federation.secagg.node import Node, NodeSecrets, Stage
from federation.secagg.protocol import run_secagg
from federation.secagg.session import Session

__all__ = ["ASKED", "Coordinator", "Node", "NodeSecrets", "Session", "Stage", "run_secagg"]
