"""The organisation's Flower ClientApp: answers two questions a run, each with a bounded, noisy sum.

Configuration of a node (``flower-supernode --node-config``):

* ``embeddings``: path of the organisation's embedding archive (`federation.embeddings.EmbeddingSet`). Nodes of a local
  simulation have none; they take ``<organisations>/<partition-id>.npz``, the folder from the run configuration.
* ``max-epsilon``, ``max-organisations``: what the operator agreed to. The coordinator proposes the plan, and the noise
  that this node adds falls with the number of organisations, so a node of consequence sets both. Optional.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from federation.embeddings import EmbeddingSet
from federation.errors import MalformedMessageError, RefusedError, UsageError
from federation.evaluation import impostor_share
from federation.privacy import MOMENTS, THRESHOLD, PrivacyPlan, operating_system_noise
from federation.rounds import Refusal, read_moments_request, read_threshold_request, share_reply
from federation.training import moments_share

_log = logging.getLogger(__name__)

app = ClientApp()


@app.train(MOMENTS)
def moments(message: Message, context: Context) -> Message:
    """Replies with this organisation's share of the moments release."""

    def answer() -> RecordDict:
        plan, start = read_moments_request(message.content)
        _require_agreed(plan, context)
        embeddings = _embeddings(context)
        share = moments_share(embeddings, start, plan, noise=operating_system_noise)
        return share_reply(share, len(set(embeddings.people.tolist())))

    return _guarded(message, context, MOMENTS, answer)


@app.evaluate(THRESHOLD)
def threshold(message: Message, context: Context) -> Message:
    """Replies with this organisation's share of the threshold release."""

    def answer() -> RecordDict:
        plan, adapter, prior = read_threshold_request(message.content)
        _require_agreed(plan, context)
        embeddings = _embeddings(context)
        share = impostor_share(embeddings, adapter, prior, plan, noise=operating_system_noise)
        return share_reply(share, len(set(embeddings.people.tolist())))

    return _guarded(message, context, THRESHOLD, answer)


def _guarded(message: Message, context: Context, name: str, answer: Callable[[], RecordDict]) -> Message:
    """Answers once a run, and turns every failure into a code: exception texts would travel in clear."""
    answered = context.state.config_records.setdefault("answered", ConfigRecord())
    if name in answered:
        return _refuse(message, Refusal.REPEATED)
    # Marked before anything is computed: a repeated question would average the noise away.
    answered[name] = True
    try:
        return Message(answer(), reply_to=message)
    except MalformedMessageError:
        _log.exception("the coordinator's request was not understood")
        return _refuse(message, Refusal.BAD_REQUEST)
    except RefusedError:
        _log.exception("the coordinator's plan was refused")
        return _refuse(message, Refusal.NOT_AGREED)
    except (UsageError, OSError):
        _log.exception("this organisation's embeddings cannot be used")
        return _refuse(message, Refusal.BAD_DATA)
    except Exception:  # noqa: BLE001 - whatever it is, only a code may leave this node
        _log.exception("this organisation failed")
        return _refuse(message, Refusal.INTERNAL)


def _refuse(message: Message, refusal: Refusal) -> Message:
    return Message(Error(code=refusal.value, reason=refusal.text), reply_to=message)


def _require_agreed(plan: PrivacyPlan, context: Context) -> None:
    """Raises RefusedError when the plan goes beyond the operator's limits."""
    for key, value in (("max-epsilon", plan.epsilon), ("max-organisations", plan.organisations)):
        limit = context.node_config.get(key)
        if limit is not None and not value <= float(limit):
            raise RefusedError(f"the plan asks for {value:g}, and {key} is {limit} in this node's configuration")


def _embeddings(context: Context) -> EmbeddingSet:
    own = context.node_config.get("embeddings")
    folder, partition = context.run_config.get("organisations"), context.node_config.get("partition-id")
    if own is not None:
        path = Path(str(own))
    elif folder and partition is not None:
        path = Path(str(folder)) / f"{int(partition)}.npz"
    else:
        raise UsageError('set embeddings="FILE.npz" in this node\'s configuration')
    return EmbeddingSet.from_bytes(path.read_bytes())
