"""`intaglio privacy`: plan, audit and frontier, for those who decide about epsilon. Mounted by `client.cli`."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from client.faces.degradation import Condition
from client.files import write_new_file
from client.privacy.checklist_cli import privacy_checklist
from client.privacy.documents_cli import privacy_documents
from client.privacy.plan_cli import (
    ColludersOption,
    DeltaOption,
    DirectionsOption,
    DropoutsOption,
    EpsilonOption,
    Federation,
    NoiseOption,
    OrganisationsOption,
    PeopleOption,
    Recipe,
    RecipeOption,
    StepsOption,
    plan_of,
    privacy_plan,
)
from client.terminal import JsonOption, progress_bar
from federation.commandline.commands import Commands
from federation.errors import ProofError, UsageError
from federation.promise import FALSE_ACCUSATIONS, percent_up

if TYPE_CHECKING:
    from federation.experiments.frontier import Frontier, Summary, Trial
    from federation.privacy.epsilon_audit import EpsilonAudit
    from federation.privacy.plan import PrivacyPlan
    from federation.privacy.tradeoff import TradeOff
    from federation.promise import AttackRates
    from federation.recognition.embeddings import EmbeddingSet
    from federation.recognition.mobilefacenet import MobileFaceNetRecogniser

# The accountant, torch and the recogniser take seconds to load: commands import them when they run.

privacy_app = Commands(help="What an epsilon costs and protects: plan, audit, measure the frontier.")


privacy_app.command("plan")(privacy_plan)
privacy_app.command("checklist")(privacy_checklist)
privacy_app.command("documents")(privacy_documents)


@privacy_app.command("audit")
def privacy_audit(
    epsilon: EpsilonOption = None,
    noise_multiplier: NoiseOption = None,
    delta: DeltaOption = 1e-5,
    people: PeopleOption = 24,
    organisations: OrganisationsOption = 4,
    directions: DirectionsOption = 58,
    colluders: ColludersOption = 1,
    dropouts: DropoutsOption = 0,
    recipe: RecipeOption = Recipe.MOMENTS,
    steps: StepsOption = 4,
    runs: Annotated[int, typer.Option(min=10, help="On each side.")] = 3000,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999999)] = 0.95,
    output: Annotated[
        Path | None, typer.Option(help="File for the Gaussian audit, for `release build`; never overwritten.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Attack the release code of a plan with a made-up person, and print what was found beside the claim.

    Nobody's data is used. Ends with exit code 4 when the lower bound is above the claim. The recipe scales is attacked
    in the network that `make install` fetched, which takes about a minute.

    Needs: nothing, and for the recipe scales the recogniser's weights. Writes: the result where --output says.

    Example: intaglio privacy audit --epsilon 8 --runs 3000
    """
    from federation.experiments.canaries import audit_epsilon, measure_attacks  # noqa: PLC0415 - see the top
    from federation.experiments.refusals import audit_refusals  # noqa: PLC0415 - see the top
    from federation.privacy.epsilon_audit import AuditMethod  # noqa: PLC0415 - see the top
    from federation.privacy.plan import Adaptation  # noqa: PLC0415 - see the top

    asked = steps if recipe is Recipe.SCALES else 0
    federation = Federation(delta, people, organisations, directions, colluders, dropouts, asked)
    _, plan = plan_of(epsilon, noise_multiplier, 1, federation)
    recogniser = _recogniser_of_steps(plan) if plan.tuned else None
    one_run = plan.adaptation is Adaptation.CENTRE
    methods = [AuditMethod.GAUSSIAN, AuditMethod.CLOPPER_PEARSON, *([AuditMethod.ONE_RUN] if one_run else [])]
    with progress_bar() as bar:
        task = bar.add_task("attacking", total=len(methods) + 2)
        audits: list[EpsilonAudit] = []
        for method in methods:
            audits.append(audit_epsilon(plan, runs=runs, confidence=confidence, method=method, recogniser=recogniser))
            bar.advance(task)
        audits.append(audit_refusals(plan, confidence=confidence, recogniser=recogniser))
        bar.advance(task)
        attacks = measure_attacks(plan, runs=runs, confidence=confidence, recogniser=recogniser)
        bar.advance(task)
    if output:
        write_new_file(output, next(a for a in audits if a.method is AuditMethod.GAUSSIAN).to_bytes())
    if as_json:
        found = [asdict(attack) | {"holds": attack.holds} for attack in attacks]
        _print_json({"audits": [audit.to_fields() for audit in audits], "attacks": found})
    else:
        table = Table("method", "runs", "claimed epsilon", "measured at least", "")
        for audit in audits:
            verdict = "stands" if audit.holds else "BROKEN"
            table.add_row(
                audit.method.value, str(audit.runs), f"{audit.claimed:g}", f"{audit.lower_bound:.2f}", verdict
            )
        console = Console(highlight=False)
        console.print(table)
        table = Table("attacker accuses, of innocents", "finds, of members", "surely at least", "stated at most", "")
        for attack in attacks:
            shares = (attack.accused, attack.found, attack.found_at_least, attack.at_most)
            table.add_row(*(f"{100 * share:.2f} %" for share in shares), "stands" if attack.holds else "BROKEN")
        console.print(table)
    if not (all(audit.holds for audit in audits) and all(attack.holds for attack in attacks)):
        raise ProofError(
            f"an attack found more than was promised, at confidence {confidence:g}. Chance does that too, seldom: run "
            "it again with more --runs, and release nothing if it stays"
        )


@privacy_app.command("frontier")
def privacy_frontier(
    output: Annotated[Path, typer.Option(help="CSV file; a sweep that was killed goes on where it was.")],
    data: Annotated[
        Path | None, typer.Option(help="A sub-folder of images for each person.", show_default="ORL")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="An .onnx recogniser.", show_default="the shipped one")] = None,
    condition: Annotated[Condition, typer.Option(help="What the probe camera does.")] = Condition.MASK,
    epsilon: Annotated[list[float] | None, typer.Option(help="Repeatable.", show_default="1, 2, 4 and 8")] = None,
    as_if: Annotated[
        list[int] | None, typer.Option(help="Noise for so many people; repeatable.", show_default="those who train")
    ] = None,
    splits: Annotated[int, typer.Option(min=1, help="Of people into training and test.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Of noise in each split.")] = 3,
    fmr: Annotated[float, typer.Option(min=0.001, max=0.05, help="That thresholds are set for.")] = 0.01,
    references: Annotated[int, typer.Option(min=1, max=5, help="Images that a template averages.")] = 2,
    frames: Annotated[int, typer.Option(min=1, max=3, help="Images that a probe averages.")] = 1,
    delta: DeltaOption = 1e-5,
    organisations: OrganisationsOption = 4,
    colluders: ColludersOption = 1,
    dropouts: DropoutsOption = 0,
    plot: Annotated[Path | None, typer.Option(help="Picture to draw: a .png or .svg file.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for embeddings; biometric data.")] = Path("build/cache"),
    ledger: Annotated[Path | None, typer.Option(help="Folder of the organisation's ledgers, to charge.")] = None,
    budget_epsilon: Annotated[float | None, typer.Option(help="Cap of that ledger.")] = None,
    *,
    public_data: Annotated[
        bool, typer.Option("--public-data", help="The people in --data agreed to be public.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy over epsilon on held-out people, between no adaptation and adaptation without privacy.

    Trying many epsilons on private people costs their budget as much as releasing would. So --data needs --public-data,
    or --ledger and --budget-epsilon: then the baselines without noise are left out and everything else is charged
    before it is tried. The rates stay exact and are of the tested people: keep the file inside.

    Needs: faces, and the recogniser's weights. Writes: the results, plot, cache and ledger where options say.

    Example: intaglio privacy frontier --output frontier.csv --epsilon 4 --epsilon 8
    """
    from client.faces.datasets import face_folder, orl_faces  # noqa: PLC0415 - see the top
    from client.faces.embedding import embed_folder  # noqa: PLC0415 - see the top
    from client.faces.judging import judging_recogniser  # noqa: PLC0415 - see the top
    from client.privacy.trials import open_trials  # noqa: PLC0415 - see the top
    from federation.experiments.frontier import Frontier, FrontierSettings, summarise, trials  # noqa: PLC0415 - see the top
    from federation.learning.releasing import ReleaseTerms  # noqa: PLC0415 - see the top

    budget = _budget(data, ledger, budget_epsilon, as_if, public=public_data)
    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise UsageError(f"a picture is a .png or a .svg file, not {plot.name}")
    root = data or orl_faces()
    folder = face_folder(root)
    recogniser = judging_recogniser(root, folder, model)
    with progress_bar() as bar:
        task = bar.add_task("embedding")
        embedded = embed_folder(
            folder,
            recogniser,
            condition,
            cache=cache,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        ).embeddings
    settings = FrontierSettings(delta=delta, organisations=organisations, colluders=colluders, dropouts=dropouts)
    frontier = Frontier(embedded, ReleaseTerms(recogniser.profile, condition.value, fmr, references, frames), settings)
    wanted = trials(
        epsilon or [1.0, 2.0, 4.0, 8.0],
        as_if or [frontier.held_in],
        splits=splits,
        draws=draws,
        baselines=budget is None,
    )
    described = asdict(settings) | {
        "people": _digest(embedded),
        "model": recogniser.digest,
        "condition": condition.value,
        "fmr": fmr,
        "references": references,
        "frames": frames,
    }
    with open_trials(output, described) as file:
        pending = file.pending(wanted)
        if budget is not None and pending:
            _charge(frontier, pending, budget)
        with progress_bar() as bar:
            task = bar.add_task("trials", total=len(wanted), completed=len(wanted) - len(pending))
            for trial in pending:
                file.append(frontier.run(trial))
                bar.advance(task)
        summaries = summarise([m for m in file.done if m.trial in set(wanted)])
    if plot is not None:
        title = f"{frontier.held_in} people train, {condition.value}, {splits} splits"
        _draw(plot, summaries, _curves(frontier, wanted), title)
    _show_frontier(summaries, frontier, wanted, as_json=as_json)


# ------------------------------------------------------------------------------------------------------------ details
def _recogniser_of_steps(plan: PrivacyPlan) -> MobileFaceNetRecogniser:
    """The network whose tuning is attacked.

    Raises:
        UsageError: the plan asks nobody for a step, or the network is not there.
    """
    from client.faces.models import load_mobilefacenet  # noqa: PLC0415 - see the top
    from federation.privacy.plan import Adaptation  # noqa: PLC0415 - see the top
    from federation.recognition.mobilefacenet import shipped_profile  # noqa: PLC0415 - see the top

    if plan.adaptation is Adaptation.NONE:
        raise UsageError(
            f"there is no step to attack: {plan.planned_noise}, too much to deploy; name more --people or a larger "
            "--epsilon"
        )
    return load_mobilefacenet(shipped_profile())


@dataclass(frozen=True)
class _Budget:
    ledger: Path
    epsilon: float


def _budget(
    data: Path | None, ledger: Path | None, budget_epsilon: float | None, as_if: list[int] | None, *, public: bool
) -> _Budget | None:
    """Who pays: None when the people are public."""
    if (ledger is None) != (budget_epsilon is None):
        raise UsageError("--ledger and --budget-epsilon go together")
    if ledger is None or budget_epsilon is None:
        if data is not None and not public:
            raise UsageError(
                "trying epsilons on private people costs their budget. Say --public-data when they agreed to be "
                "public, charge a --ledger with --budget-epsilon, or measure on the public faces, without --data"
            )
        return None
    if public or data is None:
        raise UsageError("public people cost no budget; leave --ledger out")
    if as_if:
        raise UsageError("--as-if scales what each person adds, which no ledger can cover; it is for public people")
    return _Budget(ledger, budget_epsilon)


def _charge(frontier: Frontier, pending: list[Trial], budget: _Budget) -> None:
    """Charges all pending trials before the first one. A kill costs what was not tried yet."""
    from client.node.ledger import Ledgers  # noqa: PLC0415 - see the top
    from federation.privacy.gaussian import epsilon_of_mu  # noqa: PLC0415 - see the top

    noise, delta = frontier.charge(pending), frontier.settings.delta
    cost = epsilon_of_mu(1 / noise, delta)
    if cost > budget.epsilon:  # the ledger would find the same, after minutes in its accountant
        raise UsageError(
            f"{len(pending)} trials together cost epsilon {cost:.1f} and the budget is {budget.epsilon:g}; nothing was "
            "charged. Try fewer epsilons, splits and draws, or measure on public people"
        )
    Ledgers(budget.ledger, budget.epsilon, delta).charge(
        f"frontier {secrets.token_hex(8)}/{len(pending)} trials", noise
    )
    typer.echo(
        f"epsilon {cost:.2f} at delta {delta:g} is charged to {budget.ledger} for {len(pending)} trials", err=True
    )


def _digest(embeddings: EmbeddingSet) -> str:
    """SHA-256 of who and what was embedded, so that a file of trials is not continued with other people."""
    hashed = hashlib.sha256()
    for array in (embeddings.embeddings, embeddings.people, embeddings.profiles, embeddings.images):
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def _curves(frontier: Frontier, wanted: list[Trial]) -> dict[tuple[float, int], TradeOff]:
    """What each epsilon for so many people lets an attacker do, where its plan asks anything of anybody."""
    from federation.privacy.tradeoff import trade_off  # noqa: PLC0415 - see the top

    plans = {(trial.epsilon, trial.people): frontier.plan(trial) for trial in wanted if trial.epsilon}
    return {who: trade_off(plan.noise_multipliers) for who, plan in plans.items() if plan.events}


def _draw(path: Path, summaries: list[Summary], curves: dict[tuple[float, int], TradeOff], title: str) -> None:
    from client.files import replace_file  # noqa: PLC0415 - see the top
    from client.privacy.trials import picture  # noqa: PLC0415 - see the top

    # A crash leaves the old picture or the new one.
    replace_file(
        path,
        picture(
            summaries,
            {epsilon: curve for (epsilon, _), curve in curves.items()},
            title=title,
            form=path.suffix.removeprefix("."),
        ),
    )


def _show_frontier(summaries: list[Summary], frontier: Frontier, wanted: list[Trial], *, as_json: bool) -> None:
    from federation.experiments.frontier import advice, fewest_people_for_scales  # noqa: PLC0415 - see the top

    rates = {who: curve.rates() for who, curve in _curves(frontier, wanted).items()}
    directions = frontier.plan(wanted[0]).directions
    scales = {
        epsilon: fewest_people_for_scales(epsilon, frontier.settings, directions)
        for epsilon in sorted({trial.epsilon for trial in wanted if trial.epsilon})
    }
    if as_json:
        attacks = [{"epsilon": e, "people": people, **one.to_json()} for (e, people), one in rates.items()]
        needs = {f"{epsilon:g}": people for epsilon, people in scales.items()}
        rows = [asdict(s) for s in summaries]
        _print_json({"rows": rows, "attacks": attacks, "scales_needs_people": needs, "advice": advice(summaries)})
        return
    table = Table(
        "epsilon",
        "people",
        "learns, threshold",
        "EER %",
        "TAR %",
        "FMR tau",
        "TAR tau",
        "held %",
        "attack",
        box=SIMPLE,
        pad_edge=False,
    )
    for s in summaries:
        table.add_row(
            f"{s.epsilon:g}" if s.epsilon else s.method.value,
            str(s.people or ""),
            s.deployed,
            *(f"{100 * mean:.1f}±{100 * spread:.1f}" for mean, spread in (s.eer, s.tar)),
            *("" if rate is None else f"{100 * rate[0]:.1f}" for rate in (s.fmr_at_threshold, s.tar_at_threshold)),
            "" if s.interval_held is None else f"{100 * s.interval_held[0]:.0f}",
            "" if s.attack_auc is None else f"{s.attack_auc[0]:.2f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "Rates of codes, of as many images as stated. TAR at the stated FMR, were it known; both at the released "
        "threshold tau; held: how often the interval that the release states holds the FMR. attack: AUC of membership "
        "inference. own: one organisation's people alone, shared with nobody."
    )
    console.print(_beside(summaries, rates, scales))
    console.print(advice(summaries))


def _beside(
    summaries: list[Summary], rates: dict[tuple[float, int], AttackRates], scales: dict[float, int | None]
) -> Table:
    """What each epsilon means, what it gains over each baseline, and how many people the recipe scales would need."""
    from federation.experiments.frontier import BASELINES  # noqa: PLC0415 - see the top

    baselines = [s for s in summaries if s.method in BASELINES]
    table = Table(
        "epsilon",
        "people",
        "found",
        "right",
        *(s.method.value for s in baselines),
        box=SIMPLE,
        pad_edge=False,
        title=f"Attackers who accuse {percent_up(FALSE_ACCUSATIONS)}, or guess at even odds; TAR gained over",
    )
    for s in summaries:
        if s.epsilon:
            one = rates.get((s.epsilon, s.people))
            shares = ("nobody asked", "") if one is None else (percent_up(one.detected), percent_up(one.right))
            gains = (f"{100 * (s.tar[0] - other.tar[0]):+.1f}" for other in baselines)
            table.add_row(f"{s.epsilon:g}", str(s.people), *shares, *gains)
    for epsilon, people in scales.items():
        table.add_row(f"{epsilon:g}", "scales", "nothing" if people is None else f"nothing below {people}", "")
    return table


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1))
