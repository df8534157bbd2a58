"""Markdown tables, and the one sentence on what a run has cost."""

from megamini.commands.reporting.runs import RunRecord
from megamini.markup import plain


def plain_table(titles: list[str], rows: list[list[str]]) -> str:
    """`table` of plain text, in which names of others have no markup."""
    return table(titles, [[plain(cell) for cell in row] for row in rows])


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of Markdown cells; columns after the first are set right where they hold numbers."""
    numeric = [all(row[column][:1] in "+-0123456789" for row in rows) for column in range(len(titles))]
    marks = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *rows))


def cost_sentence(run: RunRecord) -> str:
    """Updates, tokens, FLOPs, time and device."""
    ledger = run.ledger
    muon = ledger.get("optimizer_flops", 0)  # runs of earlier versions have none
    flops = f"{ledger['flops']:.3g} FLOPs" + (f" and {muon:.3g} of Muon" if muon else "")
    return (
        f"{ledger['updates']:,} updates, {ledger['tokens']:,} tokens, {flops}, "
        f"{ledger['seconds']:,.0f} s on {ledger['ranks']} x {ledger['device']}"
    )
