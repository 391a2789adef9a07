"""Secure aggregation for up to a thousand organisations: the coordinator learns a sum and nothing else.

Theory of operation
-------------------
After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), figure 4, with
the consistency check for a lying coordinator; beyond a hundred members on the sparse graph of Bell et al. (CCS 2020).
Each member u draws holders, itself among them, and deals them shares of two seeds. It sends its vector plus a mask of
its own, PRG(b_u), plus PRG(s_uv) for each holder v, minus PRG(s_vu) for each v whose shares it holds. Masks between two
survivors cancel. Enough holders then open exactly one secret of everybody who dealt: b_u of those whose vector
arrived, or the seed behind all s_uv of those who left.

* **Never both.** Both secrets of one member would lay its vector bare. A node opens shares once, for one survivor set,
  and only after it saw a quorum's signatures on that set and on the list of dealers. Two quorums of the committee share
  an honest member, who signs once.
* **Never a part.** No sum over some of the honest survivors opens: a member masks with its holders, more than half of
  whom, roughly, open its secrets (`federation.secagg.graph` has the bound). So it counts who was masked with: a holder
  opens nothing of a survivor who was told of other dealers.
* **One charge.** Nor of one who is charged for something else: members that open once for a charge open one sum for it.
* **No man in the middle.** Fresh keys are signed with long-lived identities from a roster that does not come from the
  coordinator. The signature covers the session's digest: run, release, plan, roster, size and numbers of failures.
* **No replay.** Every later message carries the digest of the key list, which holds a fresh key of every member. Shares
  are sealed under it, so a member whose keys are replayed deals no shares and masks nothing.
* **No later.** Everything sealed is sealed under X25519 and ML-KEM together (`federation.secagg.masking`).
* **Noise survives failures.** Members add noise sized for ``n - dropouts - colluders`` of them (`Session.noise_share`),
  and nobody lets a sum be opened over fewer than ``n - dropouts``.

What it does not do: a member can put anything into its vector and spoil the sum; only the total's length is checked. A
member that deals false shares ends the round, with its name. Nothing hides who takes part.

Nodes and the coordinator call it, each its own side; `protocol` is the whole of it in one function.
"""

from federation.secagg.coordinator import Coordinator
from federation.secagg.node import Node
from federation.secagg.remembered import NodeSecrets, Stage
from federation.secagg.session import Session

__all__ = ["Coordinator", "Node", "NodeSecrets", "Session", "Stage"]
