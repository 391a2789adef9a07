"""A node takes each turn once, whatever Flower makes of the state that it was handed."""

from __future__ import annotations

import copy

import pytest

from client.node.ledger import OWN
from client.node.turns import TURNS, RepeatedError, Turns
from federation.errors import UsageError
from federation.learning.moments import PublicCentre
from federation.learning.rounds import OPEN_SHARES, SHARE_KEYS, SIGN_SURVIVORS, TRAIN_MOMENTS, Refusal, moments_request
from federation.privacy.plan import MOMENTS, THRESHOLD
from federation.secagg import NodeSecrets, Stage
from tests.federated import the_plan, write_federation
from tests.integration.lying import LyingCoordinator
from tests.public_people import public_centre
from tests.simulator import FIRST_NODE

STAGES = {
    SHARE_KEYS: Stage.SHARE_KEYS,
    TRAIN_MOMENTS: Stage.MASK_INPUT,
    SIGN_SURVIVORS: Stage.SIGN_SURVIVORS,
    OPEN_SHARES: Stage.OPEN_SHARES,
}


class ForgetfulNode(LyingCoordinator):
    """Everybody is asked twice, and organisation 0 finds the state from before the first time."""

    def __init__(self, config, plan):
        super().__init__(config, plan)
        self.second = {}

    def ask(self, index, kind, content):
        context = self.grid.contexts[FIRST_NODE + index]
        before = copy.deepcopy(context.state)
        first = super().ask(index, kind, content)
        if index == 0 and kind in STAGES:
            after, context.state = context.state, before
            self.second[kind] = super().ask(index, kind, content)
            context.state = after
        return first


def test_a_node_whose_state_was_lost_after_an_answer_gives_no_second_one(tmp_path):
    """Two answers under the same masks differ by their noise alone, so many of them would average it away."""
    coordinator = ForgetfulNode(write_federation(tmp_path), the_plan())
    coordinator.advertise()
    coordinator.share()
    opened = coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=range(4))
    assert opened == [0, 1, 2, 3]
    assert {kind: reply.error.code for kind, reply in coordinator.second.items()} == dict.fromkeys(
        STAGES, Refusal.REPEATED.value
    )


def test_a_node_whose_state_was_lost_answers_no_other_question_under_the_same_masks(tmp_path):
    coordinator = LyingCoordinator(write_federation(tmp_path), the_plan())
    coordinator.advertise()
    coordinator.share()
    context = coordinator.grid.contexts[FIRST_NODE]
    before = copy.deepcopy(context.state)
    assert coordinator.question(0, TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS).has_content()
    charged, context.state = (tmp_path / "0.ledgers" / OWN).read_bytes(), before
    other = coordinator.question(
        0, TRAIN_MOMENTS, moments_request(PublicCentre(public_centre().subspace, -public_centre().start)), MOMENTS
    )
    assert other.error.code == Refusal.REPEATED.value
    assert (tmp_path / "0.ledgers" / OWN).read_bytes() == charged


def moments_are_answered(coordinator):
    return coordinator.question(0, TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS).has_content()


def opened(coordinator, _):
    assert coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=range(4))


def wrong_message(coordinator, _):
    coordinator.asked[MOMENTS][1] = b"no share list"
    assert not moments_are_answered(coordinator)


def turn_not_on_disk(coordinator, ledgers):
    (ledgers / TURNS).unlink()
    (ledgers / TURNS).mkdir()
    assert not moments_are_answered(coordinator)


@pytest.mark.parametrize("end", [opened, wrong_message, turn_not_on_disk])
def test_a_node_keeps_no_secrets_of_a_sum_that_has_ended(tmp_path, end):
    """They would lie in the memory of the SuperNode until the run ends."""
    coordinator = LyingCoordinator(write_federation(tmp_path), the_plan())
    coordinator.advertise()
    coordinator.share()
    state = coordinator.grid.contexts[FIRST_NODE].state
    kept = {name: dict(state.config_records[f"sum of {name}"]) for name in (MOMENTS, THRESHOLD)}
    assert len(kept[MOMENTS]["secrets"]) == 96
    end(coordinator, tmp_path / "0.ledgers")
    state = coordinator.grid.contexts[FIRST_NODE].state
    assert list(state.config_records[f"sum of {MOMENTS}"]) == []
    assert dict(state.config_records[f"sum of {THRESHOLD}"]) == kept[THRESHOLD]


def test_a_turn_is_taken_once_and_others_stay_free(tmp_path):
    one, other = NodeSecrets.draw(), NodeSecrets.draw()
    Turns(tmp_path / "new").take(one, MOMENTS, Stage.MASK_INPUT)
    with pytest.raises(RepeatedError, match=r"^$"):
        Turns(tmp_path / "new").take(one, MOMENTS, Stage.MASK_INPUT)
    for free in (
        (other, MOMENTS, Stage.MASK_INPUT),
        (one, THRESHOLD, Stage.MASK_INPUT),
        (one, MOMENTS, Stage.OPEN_SHARES),
    ):
        Turns(tmp_path / "new").take(*free)
        with pytest.raises(RepeatedError, match=r"^$"):
            Turns(tmp_path / "new").take(*free)
    assert (tmp_path / "new" / TURNS).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", range(1, 32))
def test_a_turn_that_a_crash_cut_short_hides_none_before_and_none_after(tmp_path, left):
    turns, secrets = Turns(tmp_path), NodeSecrets.draw()
    turns.take(secrets, MOMENTS, Stage.SHARE_KEYS)
    with (tmp_path / TURNS).open("ab") as file:
        file.write(bytes(left))
    turns.take(secrets, MOMENTS, Stage.MASK_INPUT)
    for stage in (Stage.SHARE_KEYS, Stage.MASK_INPUT):
        with pytest.raises(RepeatedError, match=r"^$"):
            turns.take(secrets, MOMENTS, stage)
    assert (tmp_path / TURNS).stat().st_size == 64


def test_a_folder_that_cannot_be_written_takes_no_turn(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written"):
        Turns(tmp_path / "file").take(NodeSecrets.draw(), MOMENTS, Stage.MASK_INPUT)
