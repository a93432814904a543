"""Record: a result as rows, and rows as the result that they were."""

from __future__ import annotations

from collections.abc import Iterable

from harness import result
from harness.finding import Finding, Location
from harness.store import schema


def rows(run: result.RunResult) -> schema.Run:
    """Return ``run`` as the row of it, which has all others below it."""
    return schema.Run(
        run_id=run.run_id,
        schema=run.schema,
        started=run.started,
        seconds=run.seconds,
        profile=run.profile,
        tree=run.tree,
        tools=run.tools,
        exit_code=int(run.exit_code),
        baseline=run.baseline,
        stages=[_stage_row(*each) for each in enumerate(run.stages)],
    )


def _stage_row(position: int, stage: result.StageResult) -> schema.Stage:
    told = [(False, finding) for finding in stage.findings]
    told += [(True, finding) for finding in stage.known]
    return schema.Stage(
        position=position,
        stage=stage.stage.value,
        variant=stage.variant,
        status=stage.status.value,
        seconds=stage.seconds,
        reason=stage.reason,
        hint=stage.hint,
        exit_code=int(stage.exit_code),
        notes=stage.notes,
        objects=stage.objects,
        counts=[
            schema.Count(position=at, name=name, value=int(value))
            for at, (name, value) in enumerate(stage.counts.items())
        ],
        findings=[
            _finding_row(at, known, finding) for at, (known, finding) in enumerate(told)
        ],
    )


def _finding_row(position: int, known: bool, finding: Finding) -> schema.Finding:
    where = finding.location
    return schema.Finding(
        position=position,
        known=known,
        key=finding.key,
        rule=finding.rule,
        object=where.object,
        symbol=where.symbol,
        offset=where.offset,
        address=where.address,
        line=where.line,
        message=finding.message,
        declared=finding.declared,
        actual=finding.actual,
        variant=finding.variant,
        platforms=finding.platforms,
        cause=finding.cause,
        ordinal=finding.ordinal,
        window=tuple(finding.window),
        reproduce=finding.reproduce,
        occurrences=finding.occurrences,
        blame=finding.blame,
        seen=finding.seen,
        expired=finding.expired,
    )


def run_result(run: schema.Run) -> result.RunResult:
    """Return the result that ``run`` and the rows below it were made of."""
    return result.RunResult(
        schema=run.schema,
        run_id=run.run_id,
        started=run.started,
        seconds=run.seconds,
        profile=run.profile,
        tree=run.tree,
        tools=run.tools,
        stages=tuple(map(_stage_result, run.stages)),
        baseline=run.baseline,
    )


def _stage_result(stage: schema.Stage) -> result.StageResult:
    return result.StageResult(
        stage=result.Stage(stage.stage),
        variant=stage.variant,
        status=result.Status(stage.status),
        seconds=stage.seconds,
        counts={count.name: count.value for count in stage.counts},
        findings=_findings(row for row in stage.findings if not row.known),
        known=_findings(row for row in stage.findings if row.known),
        reason=stage.reason,
        hint=stage.hint,
        exit_code=stage.exit_code,
        notes=stage.notes,
        objects=stage.objects,
    )


def _findings(rows: Iterable[schema.Finding]) -> tuple[Finding, ...]:
    return tuple(map(_finding, rows))


def _finding(row: schema.Finding) -> Finding:
    return Finding(
        rule=row.rule,
        location=Location(row.object, row.symbol, row.offset, row.address, row.line),
        message=row.message,
        declared=row.declared,
        actual=row.actual,
        variant=row.variant,
        platforms=row.platforms,
        cause=row.cause,
        ordinal=row.ordinal,
        window=row.window,
        reproduce=row.reproduce,
        occurrences=row.occurrences,
        blame=row.blame,
        seen=row.seen,
        expired=row.expired,
    )
