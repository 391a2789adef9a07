"""`intaglio privacy`: plan, audit and frontier, for those who decide about epsilon. Mounted by `client.cli`."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from client.faces.degradation import Condition
from client.files import write_new_file
from client.terminal import JsonOption, progress_bar
from federation.commandline.commands import Commands
from federation.errors import ProofError, UsageError

if TYPE_CHECKING:
    from federation.experiments.frontier import Frontier, Summary, Trial
    from federation.privacy.epsilon_audit import EpsilonAudit
    from federation.privacy.plan import PrivacyPlan
    from federation.recognition.embeddings import EmbeddingSet
    from federation.recognition.mobilefacenet import MobileFaceNetRecogniser

# The accountant, torch and the recogniser take seconds to load: commands import them when they run.

privacy_app = Commands(help="What an epsilon costs and protects: plan, audit, measure the frontier.")


class Recipe(StrEnum):
    """What a run asks for before the threshold."""

    MOMENTS = "moments"
    SCALES = "scales"


EpsilonOption = Annotated[
    float | None, typer.Option("--epsilon", help="For each person, all rounds.", show_default="8")
]
NoiseOption = Annotated[
    float | None, typer.Option("--noise-multiplier", help="Of one round, instead of --epsilon: says what it is worth.")
]
DeltaOption = Annotated[float, typer.Option("--delta", help="Probability that the promise fails; below 1/people.")]
PeopleOption = Annotated[int, typer.Option("--people", min=2, help="Who train, over all organisations.")]
OrganisationsOption = Annotated[int, typer.Option("--organisations", min=2)]
DirectionsOption = Annotated[
    int, typer.Option("--directions", min=2, max=1024, help="Of an embedding that the recogniser uses.")
]
ColludersOption = Annotated[int, typer.Option("--colluders", min=0, help="Organisations that may help a curious one.")]
DropoutsOption = Annotated[int, typer.Option("--dropouts", min=0, help="Organisations that may leave a round.")]
RecipeOption = Annotated[Recipe, typer.Option("--recipe", help="What a run asks for before the threshold.")]
StepsOption = Annotated[int, typer.Option("--steps", min=1, max=64, help="Of the recipe scales.")]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="Runs on the same people, all together.")]


@privacy_app.command("plan")
def privacy_plan(
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
    rounds: RoundsOption = 1,
    images: Annotated[int, typer.Option(min=1, help="Of one person, for the last table.")] = 10,
    *,
    as_json: JsonOption = False,
) -> None:
    """From a promise to noise, or from noise to a promise, and what each party sees of a person.

    Needs: nothing. Writes: nothing.

    Example: intaglio privacy plan --epsilon 8 --people 300
    """
    from federation.privacy.gaussian import epsilon_of_a_person  # noqa: PLC0415 - see the top
    from federation.privacy.planning import epsilon_of_releases, exposures  # noqa: PLC0415 - see the top

    promise, plan = _plan_of(
        epsilon,
        noise_multiplier,
        rounds,
        (delta, people, organisations, directions, colluders, dropouts),
        steps=steps if recipe is Recipe.SCALES else 0,
    )
    seen = exposures(plan)
    share, total = (plan.noise_with(plan.noise_multiplier, count) for count in (1, organisations))
    all_rounds = epsilon_of_releases(plan.noise_multiplier, delta, releases=rounds)
    counts = sorted({1, 2, 5, images})
    as_images = {count: epsilon_of_a_person(promise, delta, count) for count in counts}
    noise = plan.scales_noise_norm if plan.tuned else plan.centre_noise_norm
    facts: dict[str, object] = {
        "epsilon": promise,
        "delta": delta,
        "rounds": rounds,
        "epsilon_of_one_round": plan.epsilon,
        "epsilon_of_all_rounds": all_rounds,
        "noise_multiplier_of_one_round": plan.noise_multiplier,
        "releases_of_one_round": dict(plan.events),
        "noise_share_of_one_organisation": share,
        "noise_in_the_total": total,
        "epsilon_in_two_organisations": (in_two := epsilon_of_a_person(promise, delta, 2)),
        "adapts": plan.adaptation.value,
        "checks_threshold": plan.checks_threshold,
        **({"noise_on_the_gradient": noise} if plan.tuned else {"noise_on_the_centre": noise}),
        "noise_on_a_share_of_distances": plan.share_noise,
    }
    if as_json:
        _print_json(
            facts
            | {
                "observers": [asdict(e) | {"epsilon": e.epsilon if math.isfinite(e.epsilon) else None} for e in seen],
                "epsilon_of_a_person_if_images_were_the_unit": as_images,
            }
        )
        return
    releases = ", ".join(f"{name} {noise:.3f}" for name, noise in plan.events)
    gate = (
        f"planned noise on the average gradient {noise:.2f} clips, deployed up to 0.3"
        if plan.tuned
        else f"planned noise on the centre {noise:.2f}, learnt up to 0.4 from 24 people"
    )
    checked = "checked by the people" if plan.checks_threshold else "the public one"
    console = Console(highlight=False)
    console.print(
        f"promise  epsilon {promise:g} at delta {delta:g} for each person, add or remove one, all rounds together\n"
        f"    but  epsilon {in_two:.2f} for who is in two organisations: nobody compares their people\n"
        f" rounds  {rounds}, each with epsilon {plan.epsilon:g}; the accountant's total is {all_rounds:.3f}\n"
        f"  noise  multiplier {plan.noise_multiplier:.3f} a round ({releases})\n"
        f" shares  each of {organisations} organisations adds {share:.3f}; the total carries {total:.3f}\n"
        f" adapts  {plan.adaptation.value}; {gate}\n"
        f"    tau  {checked}; planned noise on a share of distances {plan.share_noise:.3f}, up to 0.09 from 60 people"
        + ("" if plan.events else "\n         Nothing is asked of anybody and nothing is charged: it could not help"),
        markup=False,
        soft_wrap=True,
    )
    table = Table("who looks", "at what", "noise left", "epsilon", title="One round, seen by")
    for e in seen:
        left = "no protection" if math.isinf(e.epsilon) else f"{e.epsilon:.2f}"
        table.add_row(e.observer, e.sees, f"{e.noise_multiplier:.3f}", left)
    console.print(table)
    table = Table("images of a person", "epsilon of the person", title=f"If epsilon {promise:g} were for an image")
    for count, of_person in as_images.items():
        table.add_row(str(count), f"{of_person:.1f}")
    console.print(table)


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
    from federation.experiments.canaries import audit_epsilon  # noqa: PLC0415 - see the top
    from federation.experiments.refusals import audit_refusals  # noqa: PLC0415 - see the top
    from federation.privacy.epsilon_audit import AuditMethod  # noqa: PLC0415 - see the top
    from federation.privacy.plan import Adaptation  # noqa: PLC0415 - see the top

    rest = (delta, people, organisations, directions, colluders, dropouts)
    _, plan = _plan_of(epsilon, noise_multiplier, 1, rest, steps=steps if recipe is Recipe.SCALES else 0)
    recogniser = _recogniser_of_steps(plan) if plan.tuned else None
    one_run = plan.adaptation is Adaptation.CENTRE
    methods = [AuditMethod.GAUSSIAN, AuditMethod.CLOPPER_PEARSON, *([AuditMethod.ONE_RUN] if one_run else [])]
    with progress_bar() as bar:
        task = bar.add_task("attacking", total=len(methods) + 1)
        audits: list[EpsilonAudit] = []
        for method in methods:
            audits.append(audit_epsilon(plan, runs=runs, confidence=confidence, method=method, recogniser=recogniser))
            bar.advance(task)
        audits.append(audit_refusals(plan, confidence=confidence, recogniser=recogniser))
        bar.advance(task)
    if output:
        write_new_file(output, next(a for a in audits if a.method is AuditMethod.GAUSSIAN).to_bytes())
    if as_json:
        _print_json([audit.to_fields() for audit in audits])
    else:
        table = Table("method", "runs", "claimed epsilon", "measured at least", "")
        for audit in audits:
            verdict = "stands" if audit.holds else "BROKEN"
            table.add_row(
                audit.method.value, str(audit.runs), f"{audit.claimed:g}", f"{audit.lower_bound:.2f}", verdict
            )
        Console(highlight=False).print(table)
    if not all(audit.holds for audit in audits):
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
    from client.faces.models import load_mobilefacenet, load_recogniser  # noqa: PLC0415 - see the top
    from client.privacy.trials import open_trials  # noqa: PLC0415 - see the top
    from federation.experiments.frontier import Frontier, FrontierSettings, summarise, trials  # noqa: PLC0415 - see the top
    from federation.learning.releasing import ReleaseTerms  # noqa: PLC0415 - see the top
    from federation.recognition.mobilefacenet import shipped_profile  # noqa: PLC0415 - see the top

    budget = _budget(data, ledger, budget_epsilon, as_if, public=public_data)
    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise UsageError(f"a picture is a .png or a .svg file, not {plot.name}")
    # Whoever judges a profile on people that it was made of praises it: those of ORL have one that leaves them out.
    own = data is not None or model is not None
    recogniser = load_recogniser(model) if own else load_mobilefacenet(shipped_profile(without="orl"))
    with progress_bar() as bar:
        task = bar.add_task("embedding")
        embedded = embed_folder(
            face_folder(data or orl_faces()),
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
        _draw(plot, summaries, f"{frontier.held_in} people train, {condition.value}, {splits} splits")
    _show_frontier(summaries, as_json=as_json)


# ------------------------------------------------------------------------------------------------------------ details
def _plan_of(
    epsilon: float | None,
    noise_multiplier: float | None,
    rounds: int,
    rest: tuple[float, int, int, int, int, int],
    *,
    steps: int,
) -> tuple[float, PrivacyPlan]:
    """The promise for all rounds together, and the plan of one round."""
    from federation.privacy.plan import PrivacyPlan  # noqa: PLC0415 - see the top
    from federation.privacy.planning import epsilon_of_releases, noise_multiplier_for  # noqa: PLC0415 - see the top

    delta, people, organisations, directions, colluders, dropouts = rest
    tuned = 0
    if steps:
        from federation.recognition.mobilefacenet import TUNABLE as tuned  # noqa: N811, PLC0415 - see the top

    def plan(one_round: float) -> PrivacyPlan:
        return PrivacyPlan.for_epsilon(
            one_round,
            delta=delta,
            people=people,
            organisations=organisations,
            dimension=directions,  # of the others nobody is asked anything
            directions=directions,
            colluders=colluders,
            dropouts=dropouts,
            tuned=tuned,
            steps=steps,
        )

    if noise_multiplier is not None:
        if epsilon is not None:
            raise UsageError("choose --epsilon or --noise-multiplier; each follows from the other")
        one = _rounded_up(epsilon_of_releases(noise_multiplier, delta))
        return _rounded_up(epsilon_of_releases(noise_multiplier, delta, releases=rounds)), plan(one)
    promise = 8.0 if epsilon is None else epsilon
    if rounds == 1:
        return promise, plan(promise)
    # Rounded down, so that it can be typed into a run's configuration and the rounds still keep the promise.
    one = math.floor(1000 * epsilon_of_releases(noise_multiplier_for(promise, delta, releases=rounds), delta)) / 1000
    while epsilon_of_releases(plan(one).noise_multiplier, delta, releases=rounds) > promise:
        one -= 0.001
    return promise, plan(one)


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


def _rounded_up(epsilon: float) -> float:
    return math.ceil(1000 * epsilon) / 1000


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


def _draw(path: Path, summaries: list[Summary], title: str) -> None:
    from client.files import replace_file  # noqa: PLC0415 - see the top
    from client.privacy.trials import picture  # noqa: PLC0415 - see the top

    # A crash leaves the old picture or the new one.
    replace_file(path, picture(summaries, title=title, form=path.suffix.removeprefix(".")))


def _show_frontier(summaries: list[Summary], *, as_json: bool) -> None:
    if as_json:
        _print_json([asdict(s) for s in summaries])
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
        "inference."
    )


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1))
